import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { CheckResult, DoctorReport } from "../../src/core/doctor/index.js";
import { type App, makeVenv, sitePackages } from "../helpers/stand-in.js";

/** A venv with the stand-ins of vLLM (its CPU build) and of PyTorch, and the plugin of `app` in it. */
export async function makeHealthyVenv(app: App, { vllm = "0.26.0+cpu" } = {}): Promise<string> {
  const venv = makeVenv({ vllm });
  const torch = join(sitePackages(venv), "torch");
  mkdirSync(torch);
  writeFileSync(join(torch, "__init__.py"), "from . import version\n__version__ = '2.11.0+cpu'\n");
  writeFileSync(join(torch, "version.py"), "cuda = None\nhip = None\n");
  const { code, stderr } = await app.run(["install", venv]);
  if (code !== 0) throw new Error(stderr);
  return venv;
}

export interface Examined extends DoctorReport {
  code: number | undefined;
  check(id: string): CheckResult;
}

/** Runs `kivi doctor --json`. */
export async function examine(
  app: App,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<Examined> {
  const { code, stdout } = await app.run(["doctor", ...args, "--json"], { env });
  const report = JSON.parse(stdout) as DoctorReport;
  const check = (id: string): CheckResult => {
    const found = report.checks.find((result) => result.id === id);
    if (found === undefined) throw new Error(`no check ${id} in ${stdout}`);
    return found;
  };
  return { ...report, code, check };
}
