import { z } from "zod";
import { type Check, fail, need, ok, skip } from "./check.js";
import { isCpuBuild } from "./device.js";
import { askProbe, probeCommand } from "./probe.js";

const SCRIPT = "run_canary.py";

/** What templates/probes/run_canary.py prints. */
const answer = z.union([
  z.strictObject({ error: z.string() }),
  z.strictObject({ seconds: z.record(z.string(), z.number()) }),
]);

export const canaryCheck: Check = {
  id: "kernels",
  title: "kernels",
  needs: ["venv", "vllm", "device", "plugin"],
  progress: "Compile the kernels and compare them with the reference",
  run: async (subject) => {
    const { context } = subject;
    if (isCpuBuild(need(subject, "vllm"))) return skip("vLLM's CPU build: its workers check theirs at start");
    if (need(subject, "device").gpus.length === 0) return skip("no GPU that PyTorch can use");
    const venv = need(subject, "venv");
    const byHand = probeCommand(context, venv, SCRIPT).join(" ");
    const found = await askProbe(context, venv, {
      script: SCRIPT,
      mark: "KIVI_CANARY ",
      answer,
      what: "Running the kernels",
      code: "canary-failed",
      hint: `Run it by hand to see more: ${byHand}`,
      timeoutMs: 600_000,
    });
    if ("error" in found) {
      return fail(
        `they do not compile, or do not do what the reference says: ${found.error}`,
        `Install the plugin again, kivi install ${venv.path} --force; if that does not help, run ${byHand} and report it.`,
      );
    }
    const each = Object.entries(found.seconds).map(([name, seconds]) => `${name} in ${seconds} s`);
    return ok(`compiled, and as the reference on GPU 0: ${each.join(", ")}`);
  },
};
