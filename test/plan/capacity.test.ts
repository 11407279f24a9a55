import { describe, expect, it } from "vitest";
import { estimateReserve, type PlanRequest, planCapacity } from "../../src/core/plan/capacity.js";
import { readModel } from "../../src/core/plan/model.js";
import { estimateParameters, estimateWeights } from "../../src/core/plan/weights.js";
import { MODELS } from "./models.js";

const GIB = 2 ** 30;
const request: PlanRequest = {
  memoryBytes: 79.1 * GIB,
  utilization: 0.9,
  tensorParallel: 1,
  context: 8192,
  maxNumSeqs: 256,
  maxNumBatchedTokens: 8192,
};

function planned(name: keyof typeof MODELS, more: Partial<PlanRequest> = {}) {
  const model = readModel(MODELS[name].config, name);
  const plan = planCapacity(model, estimateWeights(model), { ...request, ...more });
  return { model, plan, cache: Object.fromEntries(plan.caches.map((cache) => [cache.cache, cache])) };
}

describe("parameters from a config", () => {
  it.each(Object.entries(MODELS))("of %s are those on its card", (name, { config, parameters }) => {
    const estimate = estimateParameters(readModel(config, name));
    expect(Math.abs(estimate / parameters - 1)).toBeLessThan(0.015);
  });

  it("take fewer bytes in a quantized checkpoint", () => {
    const config = MODELS["Qwen3-32B"].config;
    const bits = (quantization_config: object) =>
      estimateWeights(readModel({ ...config, quantization_config }, "m")).bytes / 1e9;
    expect(bits({ quant_method: "fp8" })).toBeCloseTo(34.6, 0);
    expect(bits({ quant_method: "gptq", bits: 4 })).toBeCloseTo(19.5, 0);
  });
});

describe("capacity", () => {
  it("agrees with vLLM 0.26 measured on an H200 (Llama-8B, 80 % of memory: 776,880 tokens in bf16)", () => {
    const { cache } = planned("Llama-3.1-8B", {
      memoryBytes: 139.8 * GIB,
      utilization: 0.8,
      maxNumSeqs: 1024,
      maxNumBatchedTokens: 16384,
    });
    expect(Math.abs((cache.bf16?.tokens ?? 0) / 776_880 - 1)).toBeLessThan(0.01);
    expect(Math.abs((cache.fp8?.tokens ?? 0) / 1_553_760 - 1)).toBeLessThan(0.01);
  });

  it("counts pages and staging in bytes that can be checked by hand", () => {
    const { cache } = planned("Llama-3.1-8B");
    expect(cache.bf16?.bytesPerToken).toBe(131_072);
    expect(cache.fp8?.bytesPerToken).toBe(65_536);
    expect(cache.k4v4?.bytesPerToken).toBe(32 * 8 * 134);
    expect(cache.k2v2?.bytesPerToken).toBe(32 * 8 * 88);
    expect(cache.k4v4?.stagingBytes).toBe(257 * (128 + 128) * 32 * 8 * 144);
    expect(cache.k4v2?.stagingBytes).toBe(257 * (128 + 128 + 128 + 128) * 32 * 8 * 144);
    expect(cache.k2v2?.stagingBytes).toBe(257 * (32 + 128 + 32 + 128) * 32 * 8 * 144);
    const left = (cache.bf16?.cacheBytes ?? 0) - (cache.k4v4?.stagingBytes ?? 0);
    expect(cache.k4v4?.tokens).toBe(Math.floor(left / (32 * 8 * 134 * 128)) * 128);
  });

  it("counts whole blocks for a sequence", () => {
    const at = (context: number) => planned("Llama-3.1-8B", { context }).cache.k4v4?.concurrency ?? 0;
    expect(at(1025)).toBe(at(1152));
    expect(at(1024)).toBeGreaterThan(at(1025));
  });

  it("shares KV heads over GPUs, and copies them when there are more GPUs than heads", () => {
    const one = planned("Llama-3.1-8B");
    const two = planned("Llama-3.1-8B", { tensorParallel: 2 });
    expect(two.cache.k4v4?.bytesPerToken).toBe((one.cache.k4v4?.bytesPerToken ?? 0) / 2);
    expect(two.plan.budget.weightBytes).toBe(Math.ceil(one.plan.budget.weightBytes / 2));
    expect(planned("Llama-3.1-8B", { tensorParallel: 16 }).plan.kvHeadsPerGpu).toBe(1);
  });

  it("leaves sliding windows and states in vLLM's own cache", () => {
    const gemma = planned("gemma-3-4b");
    expect(gemma.plan.layers).toEqual({ full: 5, sliding: 29, state: 0 });
    expect(gemma.cache.k4v4?.bytesPerToken).toBe(5 * 4 * (256 * 2 * 0.5 + (3 * 256) / 128 + 3 * 2));
    const gain = (gemma.cache.k4v4?.tokens ?? 0) / (gemma.cache.bf16?.tokens ?? 1);
    expect(gain).toBeGreaterThan(1);
    expect(gain).toBeLessThan(2); // the windows' bytes do not shrink
    expect(planned("gemma-2-9b").plan.layers).toEqual({ full: 21, sliding: 21, state: 0 });
    expect(planned("Qwen3-Next-80B-A3B", { tensorParallel: 4 }).plan.layers).toEqual({
      full: 12,
      sliding: 0,
      state: 36,
    });
  });

  it("never reports negative tokens", () => {
    const { cache } = planned("Llama-3.1-8B", { memoryBytes: 22 * GIB, maxNumSeqs: 2048 });
    expect(cache.k4v4).toMatchObject({ tokens: 0, concurrency: 0 });
    expect(cache.k4v4?.cacheBytes).toBeLessThan(0);
    expect(cache.bf16?.tokens).toBeGreaterThan(0);
  });

  it("takes a given reserve instead of the estimate", () => {
    const { plan, model } = planned("Llama-3.1-8B", { reserveBytes: GIB });
    expect(plan.budget.reserveBytes).toBe(GIB);
    expect(estimateReserve(model, request)).toBeGreaterThan(GIB / 2);
  });
});

describe("a config that cannot be planned", () => {
  const llama = MODELS["Llama-3.1-8B"].config;
  it.each([
    [{ ...llama, model_type: "deepseek_v3", kv_lora_rank: 512 }, /multi-head latent attention/],
    [{ ...llama, model_type: "lama" }, /"lama" is not known\. Did you mean "llama"\?/],
    [{ ...llama, model_type: undefined }, /has no "model_type"/],
    [
      { ...llama, num_hidden_layers: undefined },
      /"num_hidden_layers" must be a positive whole number, found nothing/,
    ],
    [{ ...llama, hidden_size: 4100 }, /head size 128.125 is not a multiple of 8/],
    [{ ...llama, layer_types: ["full_attention"] }, /names 1 layers of 32/],
    [
      { ...llama, layer_types: Array(32).fill("chunked_attention") },
      /"chunked_attention", which is not known/,
    ],
    [{ ...llama, num_key_value_heads: 5 }, /32 heads do not divide into 5/],
    [{ ...llama, torch_dtype: "int3" }, /dtype "int3"/],
    [[], /expected a JSON object/],
  ])("is refused with the reason (%#)", (config, reason) => {
    expect(() => readModel(config, "x/config.json")).toThrow(reason);
  });
});
