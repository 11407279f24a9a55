import { KiviError } from "../../shared/errors.js";
import { type ModelShape, openModel, readModel } from "../plan/index.js";
import { type Check, type Finding, fail, ok, warn } from "./check.js";
import { refusals } from "./refusals.js";

const OWN_CACHE = "Serve it with vLLM's own cache, without --kv-cache-dtype kivi_*.";

function described(model: ModelShape): string {
  const count = (kind: string): number => model.layers.filter((layer) => layer.kind === kind).length;
  const sliding = count("sliding");
  return [
    model.modelType,
    `${model.layers.length} layers${sliding === 0 ? "" : ` (${sliding} with a sliding window, which keep vLLM's own cache)`}`,
    `${model.kvHeads} KV heads of ${model.headSize}`,
  ].join(", ");
}

function judge(config: unknown, where: string): Finding {
  const refused = refusals(config);
  if (refused.length > 0) return fail(`the plugin refuses it: ${refused.join("; ")}`, OWN_CACHE);
  let model: ModelShape;
  try {
    model = readModel(config, where);
  } catch (error) {
    if (!(error instanceof KiviError)) throw error;
    // What kivi's arithmetic does not know, the plugin may still take: it goes by what vLLM makes of the model.
    return warn(
      `kivi cannot tell whether the plugin takes it: ${error.message}`,
      "Start it once, which says so: kivi serve MODEL",
    );
  }
  if (model.layers.every(({ kind }) => kind === "sliding")) {
    return fail(
      "the plugin refuses it: every layer has a sliding window, so none is left for KIVI",
      OWN_CACHE,
    );
  }
  if (model.layers.some(({ kind }) => kind === "state")) {
    return fail("the plugin refuses it: it has state-space layers", OWN_CACHE);
  }
  const quantized = model.raw.quantization_config as { quant_method?: unknown } | null | undefined;
  if (quantized != null) {
    return warn(
      `${described(model)}; its weights are quantized (${String(quantized.quant_method ?? "method not named")}), which the plugin does not refuse and no test covers`,
      "Measure it before you rely on it: kivi bench MODEL --suites perplexity",
    );
  }
  return ok(described(model));
}

export const modelCheck: Check = {
  id: "model",
  title: "model",
  run: async ({ context, model }) => {
    if (model === undefined) throw new Error("the check of a model was asked for without one");
    const { config, where } = await openModel(context, model);
    return judge(config, where);
  },
};
