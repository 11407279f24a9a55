import { join } from "node:path";
import { z } from "zod";
import { childError } from "../../shared/errors.js";
import { runChecked } from "../../shared/process.js";
import { type Check, fail, need, ok, skip } from "./check.js";
import { isCpuBuild } from "./device.js";

const MARK = "KIVI_CANARY ";

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
    const probe = join(context.paths.templates, "probes", "run_canary.py");
    const argv: [string, ...string[]] = [venv.python, "-B", probe];
    const { stdout } = await runChecked(
      context.runner,
      { argv, readOnly: true },
      {
        what: "Running the kernels",
        code: "canary-failed",
        hint: `Run it by hand to see more: ${argv.join(" ")}`,
        cwd: venv.path,
        env: { NO_COLOR: "1" },
        signal: context.signal,
        timeoutMs: 600_000,
      },
    );
    const line = stdout.split("\n").findLast((text) => text.startsWith(MARK));
    if (line === undefined) throw childError("canary-failed", `${probe} printed no answer.`);
    const found = answer.parse(JSON.parse(line.slice(MARK.length)));
    if ("error" in found) {
      return fail(
        `they do not compile, or do not do what the reference says: ${found.error}`,
        `Install the plugin again, kivi install ${venv.path} --force; if that does not help, run ${argv.join(" ")} and report it.`,
      );
    }
    const each = Object.entries(found.seconds).map(([name, seconds]) => `${name} in ${seconds} s`);
    return ok(`compiled, and as the reference on GPU 0: ${each.join(", ")}`);
  },
};
