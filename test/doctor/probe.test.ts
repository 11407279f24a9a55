/** The probe of the GPU against a driver and a PyTorch of a few lines, for machines without a GPU. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { execaSync } from "execa";
import { describe, expect, it } from "vitest";
import { temporaryFolder } from "../helpers/cli.js";
import { makeApp, sitePackages } from "../helpers/stand-in.js";
import { examine, makeHealthyVenv } from "./helpers.js";

const hasCompiler = execaSync("cc", ["--version"], { reject: false }).exitCode === 0;

const TORCH = `
from . import version
__version__ = "2.11.0"
class cuda:
    init = staticmethod(lambda: None)
    device_count = staticmethod(lambda: 1)
    mem_get_info = staticmethod(lambda index: (40 * 2**30, 80 * 2**30))
    get_device_capability = staticmethod(lambda index: (9, 0))
    get_device_name = staticmethod(lambda index: "Stand-in")
`;

/** A folder with a libcuda.so.1 for CUDA 13.0 whose cuInit answers as given. */
function makeDriver(init: number): string {
  const folder = temporaryFolder();
  const source = join(folder, "driver.c");
  writeFileSync(
    source,
    `int cuDriverGetVersion(int *version) { *version = 13000; return 0; }\nint cuInit(int flags) { return ${init}; }\n`,
  );
  execaSync("cc", ["-shared", "-fPIC", "-o", join(folder, "libcuda.so.1"), source]);
  return folder;
}

describe.skipIf(!hasCompiler)("the probe of the GPU", () => {
  it("asks the driver, PyTorch and the plugin", async () => {
    const app = makeApp();
    writeFileSync(join(app.root, "triton-kernels", "nvrtc.py"), "compiler_works = lambda: True\n");
    const venv = await makeHealthyVenv(app, { vllm: "0.26.0" });
    const torch = join(sitePackages(venv), "torch");
    writeFileSync(join(torch, "__init__.py"), TORCH);
    writeFileSync(join(torch, "version.py"), "cuda = '13.0'\nhip = None\n");

    const report = await examine(app, [venv], { LD_LIBRARY_PATH: makeDriver(0) });
    expect(report.check("driver").message).toBe("PyTorch 2.11.0 for CUDA 13.0; the driver supports 13.0");
    expect(report.check("gpu").message).toBe("0: Stand-in (9.0)");
    expect(report.check("memory")).toMatchObject({
      status: "warn",
      hint: expect.stringContaining("--gpu-memory-utilization 0.49"),
    });
    expect(report.check("nvrtc").status).toBe("ok");
    // The stand-in's plugin has no kernels, which alone fails.
    expect(report.checks.filter(({ status }) => status === "fail")).toEqual([
      expect.objectContaining({
        id: "kernels",
        message: expect.stringContaining("ModuleNotFoundError: No module named 'vllm_kivi.backend.gpu'"),
        hint: expect.stringContaining("--force"),
      }),
    ]);
    expect(report.code).toBe(1);

    const none = await examine(app, [venv], { LD_LIBRARY_PATH: makeDriver(100) });
    expect(none.check("driver")).toMatchObject({ status: "skip", message: "no NVIDIA GPU is visible" });
    expect(none.check("nvrtc").status).toBe("skip");
  });
});
