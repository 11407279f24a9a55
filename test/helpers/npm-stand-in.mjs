#!/usr/bin/env node
// `npm` for a test that must not reach a registry: does nothing, and fails where the real one would for lack of a file.
import { existsSync, readFileSync } from "node:fs";

const [command = "", ...words] = process.argv.slice(2);
const { scripts } = JSON.parse(readFileSync("package.json", "utf8"));
const KNOWN = {
  ci: () => words.length === 0 && existsSync("package-lock.json"),
  run: () => words.length === 1 && words[0] in scripts,
  install: () => words.join(" ") === "--global .",
};
process.exitCode = KNOWN[command]?.() ? 0 : 1;
