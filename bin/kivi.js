#!/usr/bin/env node
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const entry = new URL("../dist/cli/main.js", import.meta.url);
if (existsSync(fileURLToPath(entry))) {
  // A reader that goes away (`kivi plan | head`) is not an error.
  process.stdout.on("error", (error) => {
    if (error.code !== "EPIPE") throw error;
  });
  const { main } = await import(entry);
  process.exitCode = await main(process.argv.slice(2));
} else {
  console.error("error: kivi is not built.\nnext:  npm run build");
  process.exitCode = 3;
}
