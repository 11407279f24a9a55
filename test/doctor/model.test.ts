import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { modelCheck } from "../../src/core/doctor/model.js";
import { runChecks } from "../../src/core/doctor/run.js";
import type { Context } from "../../src/shared/context.js";
import { temporaryFolder } from "../helpers/cli.js";
import { MODELS } from "../plan/models.js";

const home = temporaryFolder();
const llama = { ...MODELS["Llama-3.1-8B"].config, architectures: ["LlamaForCausalLM"] };

async function check(config: object | undefined) {
  const folder = join(home, "model");
  mkdirSync(folder, { recursive: true });
  if (config !== undefined) writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  const context = {
    cwd: home,
    env: {},
    signal: new AbortController().signal,
    out: { debug: () => undefined },
  } as unknown as Context;
  const model = config === undefined ? "nowhere/at/all" : folder;
  const [result] = await runChecks([modelCheck], {
    context,
    path: "/venv",
    model,
    vllmArgs: [],
    fix: false,
    facts: {},
  });
  return result;
}

describe("kivi doctor --model", () => {
  it("describes a model that the plugin takes", async () => {
    expect(await check(llama)).toMatchObject({
      status: "ok",
      message: "llama, 32 layers, 8 KV heads of 128",
    });
  });

  it("takes layers with a window beside full ones", async () => {
    const result = await check(MODELS["gemma-3-4b"].config);
    expect(result).toMatchObject({
      status: "ok",
      message: expect.stringContaining("29 with a sliding window"),
    });
  });

  it.each([
    ["latent attention", { ...llama, model_type: "deepseek_v3", kv_lora_rank: 512 }],
    ["head size is 100", { ...llama, head_dim: 100 }],
    ["encoder-decoder", { ...llama, is_encoder_decoder: true }],
    ["pooling model", { ...llama, architectures: ["LlamaForSequenceClassification"] }],
    ["pooling model", { ...llama, architectures: ["LlamaModel"] }],
    ["chunked local attention", { model_type: "llama4", text_config: { attention_chunk_size: 8192 } }],
    ["soft cap", { ...MODELS["gemma-2-9b"].config, attn_logit_softcapping: 50 }],
    ["ALiBi", { ...llama, alibi: true }],
    ["attention sinks", { ...llama, model_type: "gpt_oss" }],
    ["every layer has a sliding window", { ...llama, model_type: "mistral", sliding_window: 4096 }],
    ["state-space", MODELS["Qwen3-Next-80B-A3B"].config],
  ])("fails where the plugin refuses: %s", async (reason, config) => {
    expect(await check(config)).toMatchObject({
      status: "fail",
      message: expect.stringContaining(reason),
      hint: expect.stringContaining("vLLM's own cache"),
    });
  });

  it("warns of quantized weights and of a type that kivi does not know", async () => {
    const quantized = await check({ ...llama, quantization_config: { quant_method: "awq" } });
    expect(quantized).toMatchObject({ status: "warn", message: expect.stringContaining("(awq)") });
    const unknown = await check({ ...llama, model_type: "newcomer" });
    expect(unknown).toMatchObject({ status: "warn", message: expect.stringContaining('"newcomer"') });
  });

  it("fails with the error's words where there is no model", async () => {
    expect(await check(undefined)).toMatchObject({
      status: "fail",
      message: expect.stringContaining("neither a folder"),
    });
  });
});
