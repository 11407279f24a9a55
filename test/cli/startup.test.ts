import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { repository } from "../helpers/cli.js";

/** Packages and files reached by static imports: what Node reads before `kivi --help` prints. */
function reached(file: URL, seen = new Set<string>()): Set<string> {
  if (seen.has(file.href)) return seen;
  seen.add(file.href);
  const source = readFileSync(fileURLToPath(file), "utf8");
  for (const [, name] of source.matchAll(/^(?:import|export)\b[^;]*?from "([^"]+)";$/gm)) {
    if (name?.startsWith(".")) reached(new URL(name, file), seen);
    else seen.add(name as string);
  }
  return seen;
}

describe("starting up", () => {
  it("loads the argument parser and no other package before a command runs", () => {
    const entry = new URL(`file://${join(repository, "dist", "cli", "main.js")}`);
    const packages = [...reached(entry)].filter(
      (name) => !name.startsWith("file:") && !name.startsWith("node:"),
    );
    expect(packages).toEqual(["commander"]);
  });
});
