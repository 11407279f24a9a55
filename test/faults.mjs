// `npm run test:faults`: servers with real vLLM of which a part is killed, and an install that is killed at every step.
import { join } from "node:path";
import { prepareEnvironment } from "./environment.mjs";
import { root, stage } from "./stages.mjs";

try {
  const venv = await prepareEnvironment();
  const vitest = join(root, "node_modules", "vitest", "vitest.mjs");
  const variables = { KIVI_TEST_VENV: venv.path, KIVI_TEST_FAULTS: "1" };
  process.exitCode = stage("faults", [process.execPath, vitest, "run"], variables) ? 0 : 1;
} catch (error) {
  console.error(`error: ${error.message}${error.hint ? `\nnext:  ${error.hint}` : ""}`);
  process.exitCode = error.exitCode ?? 5;
}
