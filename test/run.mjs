// `npm test`: every check of the project, cheapest first; the first stage that fails ends the run.
import { join } from "node:path";
import { root, stage } from "./stages.mjs";

const node = process.execPath;
const tool = (...parts) => join(root, "node_modules", ...parts);

async function withRealVllm() {
  // Imported late: it runs on the build.
  const { prepareEnvironment } = await import("./environment.mjs");
  const { runPython } = await import("./python.mjs");
  const venv = await prepareEnvironment();
  process.env.KIVI_TEST_VENV = venv.path;
  return stage("TypeScript tests", [node, tool("vitest", "vitest.mjs"), "run"]) && runPython(venv.path);
}

const ready =
  stage("lint", [node, tool("@biomejs", "biome", "bin", "biome"), "check", "--error-on-warnings", "."]) &&
  stage("types", [node, tool("typescript", "bin", "tsc"), "--noEmit"]) &&
  stage("build", [node, join(root, "bin", "bootstrap.mjs"), "build"]);

try {
  process.exitCode = ready && (await withRealVllm()) ? 0 : 1;
} catch (error) {
  console.error(`error: ${error.message}${error.hint ? `\nnext:  ${error.hint}` : ""}`);
  process.exitCode = error.exitCode ?? 5;
}
