// `npm test`: every check of the project, cheapest first; the first that fails ends the run.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const node = process.execPath;
const tool = (...parts) => join(root, "node_modules", ...parts);

const stages = [
  ["lint", [node, tool("@biomejs", "biome", "bin", "biome"), "check", "--error-on-warnings", "."]],
  ["types", [node, tool("typescript", "bin", "tsc"), "--noEmit"]],
  ["build", [node, join(root, "bin", "bootstrap.mjs"), "build"]],
  ["TypeScript tests", [node, tool("vitest", "vitest.mjs"), "run"]],
  ["Python tests", [node, join(root, "test", "python.mjs")]],
];

let failed = false;
for (const [title, argv] of stages) {
  const startedAt = Date.now();
  console.log(`\n=== ${title}`);
  const { status, signal } = spawnSync(argv[0], argv.slice(1), { cwd: root, stdio: "inherit" });
  console.log(
    `=== ${title}: ${status === 0 ? "ok" : `FAILED (${signal ?? status})`} in ${Math.round((Date.now() - startedAt) / 1000)} s`,
  );
  if (status !== 0) {
    failed = true;
    break;
  }
}
process.exitCode = failed ? 1 : 0;
