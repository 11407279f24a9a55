// Puts results of kivi bench under bench/results, without the folders of their machine, and renders the README's sections,
// pages and pictures anew: `npm run results -- [RESULT.json ...]`. A section of the README names its result.
import { readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { openResult } from "../dist/core/bench/index.js";
import { publish, withoutFolders } from "../dist/report/published.js";

const root = fileURLToPath(new URL("..", import.meta.url));

try {
  for (const path of process.argv.slice(2)) {
    const result = await openResult(path);
    if (!result.complete)
      throw new Error(`${path} is of a run that did not end; go on with kivi bench --resume.`);
    const text = `${JSON.stringify(withoutFolders(result), null, 1)}\n`;
    writeFileSync(join(root, "bench", "results", basename(path)), text);
  }
  const readme = readFileSync(join(root, "README.md"), "utf8");
  for (const { path, text } of await publish(root, readme, join(root, "templates"))) {
    writeFileSync(join(root, path), text);
    process.stdout.write(`${path}\n`);
  }
} catch (error) {
  process.stderr.write(`error: ${error.message}${error.hint ? `\nnext:  ${error.hint}` : ""}\n`);
  process.exitCode = error.exitCode ?? 1;
}
