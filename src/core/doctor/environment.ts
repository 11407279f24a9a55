import { openVenv, requireVllm } from "../venv/index.js";
import { relocatedFrom } from "../venv/relocated.js";
import { SUPPORTED_PYTHON, versionInRange } from "../venv/supported.js";
import { type Check, fail, need, ok } from "./check.js";

const python: Check = {
  id: "python",
  title: "interpreter",
  run: async (subject) => {
    const venv = await openVenv(subject.context, subject.path);
    subject.facts.venv = venv;
    const version = `Python ${venv.pythonVersion}`;
    if (versionInRange(venv.pythonVersion, SUPPORTED_PYTHON)) return ok(version);
    return fail(
      `${version}; vLLM and the plugin need ${SUPPORTED_PYTHON}`,
      "kivi install --create PATH --device cpu|cuda --python 3.12",
    );
  },
};

const place: Check = {
  id: "place",
  title: "place of the environment",
  needs: ["venv"],
  run: ({ path }) => {
    const moved = relocatedFrom(path);
    return moved === undefined ? ok(path) : fail(moved.found, moved.hint);
  },
};

const vllm: Check = {
  id: "vllm",
  title: "vLLM",
  needs: ["venv"],
  run: (subject) => {
    const venv = need(subject, "venv");
    // Also one that is not supported can be asked whether it loads the plugin.
    if (venv.vllm !== undefined) subject.facts.vllm = venv.vllm;
    const { distribution, version } = requireVllm(venv);
    return ok(`${distribution} ${version}`);
  },
};

export const environmentChecks: readonly Check[] = [python, place, vllm];
