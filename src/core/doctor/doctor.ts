import type { Context } from "../../shared/context.js";
import { requireVenvFolder } from "../venv/index.js";
import { canaryCheck } from "./canary.js";
import type { CheckResult, Status } from "./check.js";
import { configurationCheck } from "./configuration.js";
import { deviceChecks } from "./device.js";
import { environmentChecks } from "./environment.js";
import { modelCheck } from "./model.js";
import { pluginChecks } from "./plugin.js";
import { runChecks } from "./run.js";
import { storageCheck } from "./storage.js";

export interface DoctorReport {
  readonly venv: string;
  /** kivi's own version. */
  readonly version: string;
  /** No check failed; warnings do not count. */
  readonly healthy: boolean;
  readonly counts: Readonly<Record<Status, number>>;
  readonly checks: readonly CheckResult[];
}

/** Examines an environment; throws only where there is none to examine. */
export async function examine(
  context: Context,
  path: string,
  options: { model?: string | undefined; vllmArgs?: readonly string[]; fix: boolean },
): Promise<DoctorReport> {
  const venv = requireVenvFolder(context, path);
  const checks = [
    ...environmentChecks,
    ...pluginChecks,
    ...deviceChecks,
    canaryCheck,
    ...(options.model === undefined ? [] : [modelCheck, configurationCheck]),
    storageCheck,
  ];
  const { model, vllmArgs = [], fix } = options;
  const subject = { context, path: venv, model, vllmArgs, fix, facts: {} };
  const results = await runChecks(checks, subject);
  const count = (status: Status): number => results.filter((result) => result.status === status).length;
  const counts = { ok: count("ok"), warn: count("warn"), fail: count("fail"), skip: count("skip") };
  return { venv, version: context.version, healthy: counts.fail === 0, counts, checks: results };
}
