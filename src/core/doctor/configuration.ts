/** Whether vLLM and the plugin configure an engine for a model with the words that it would be served with. */
import { existsSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { cacheDtype } from "../plugin/presets.js";
import type { Venv } from "../venv/index.js";
import { type Check, type Finding, fail, need, ok, skip, warn } from "./check.js";
import { isCpuBuild } from "./device.js";
import { askProbe } from "./probe.js";

/** What templates/probes/inspect_config.py prints. */
const answer = z.union([
  z.strictObject({ error: z.enum(["arguments", "refused", "vllm"]), message: z.string() }),
  z.strictObject({
    cache_dtype: z.string(),
    block_size: z.number(),
    prefix_caching: z.boolean(),
    quantization: z.string().nullable(),
    head_size: z.number(),
    layers: z.number(),
    kivi_layers: z.number().nullable(),
  }),
]);

type Answer = z.output<typeof answer>;

/** The folder of a config.json; a folder; or a name on the hub. */
function modelWord(cwd: string, model: string): string {
  const path = resolve(cwd, model);
  if (!existsSync(path)) return model;
  return statSync(path).isFile() ? dirname(path) : path;
}

function refusalHint(kind: "arguments" | "refused" | "vllm", venv: Venv): string {
  if (kind === "arguments")
    return `See vLLM's flags: ${venv.python} -m vllm.entrypoints.openai.api_server --help`;
  if (kind === "refused") return "Change that setting after the --, or serve with vLLM's own cache.";
  return "Mend what vLLM says after the --, or in the model's folder, and run again.";
}

function judge(found: Answer, venv: Venv): Finding {
  if ("error" in found) return fail(found.message, refusalHint(found.error, venv));
  const { cache_dtype: cache, kivi_layers: ours, layers } = found;
  if (ours === null) {
    return warn(
      `vLLM takes it with the cache ${cache}, which is its own`,
      `Leave --kv-cache-dtype out after the --, or name one of KIVI's: ${cacheDtype("k4v4")}`,
    );
  }
  return ok(
    [
      `${cache} in ${ours} of ${layers} layers of head size ${found.head_size}`,
      `blocks of ${found.block_size} tokens`,
      `prefix caching ${found.prefix_caching ? "on" : "off"}`,
      ...(found.quantization === null ? [] : [`weights quantized by ${found.quantization}`]),
    ].join(", "),
  );
}

export const configurationCheck: Check = {
  id: "configuration",
  title: "vLLM's configuration",
  needs: ["venv", "vllm", "plugin", "device"],
  progress: "Make vLLM's configuration for the model",
  run: async (subject) => {
    const { context, model = "", vllmArgs } = subject;
    const venv = need(subject, "venv");
    if (!isCpuBuild(need(subject, "vllm")) && need(subject, "device").gpus.length === 0)
      return skip("no GPU that PyTorch can use");
    const dtype = cacheDtype("k4v4");
    // Of a flag that is given twice, vLLM takes the last.
    const words = ["--model", modelWord(context.cwd, model), "--kv-cache-dtype", dtype, ...vllmArgs];
    const found = await askProbe(context, venv, {
      script: "inspect_config.py",
      words,
      mark: "KIVI_CONFIG ",
      answer,
      what: "Making vLLM's configuration",
      code: "configuration-unknown",
      // Words may name files.
      cwd: context.cwd,
      timeoutMs: 300_000,
    });
    return judge(found, venv);
  },
};
