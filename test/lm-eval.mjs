// The suite lm-eval of `kivi bench`, with lm-eval itself and a real model, in an environment of its own:
// `npm run test:lm-eval`.
import { fetchModel } from "../dist/core/demo/model.js";
import { prepareEnvironment, WITH_LM_EVAL, withContext } from "./environment.mjs";
import { stage } from "./stages.mjs";

const venv = await prepareEnvironment(WITH_LM_EVAL);
const model = await withContext((context) =>
  context.progress.step("Fetch the model", (step) => fetchModel(context, venv, step)),
);
const passed = stage("lm-eval", ["npx", "vitest", "run", "test/bench/lm-eval.test.ts"], {
  KIVI_LM_EVAL_VENV: venv.path,
  KIVI_LM_EVAL_MODEL: model.path,
});
process.exitCode = passed ? 0 : 1;
