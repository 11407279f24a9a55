import { KiviError, messageOf } from "../../shared/errors.js";
import { type Check, type CheckResult, type Facts, type Finding, fail, type Subject, skip } from "./check.js";

const UNKNOWN: Record<keyof Facts, string> = {
  venv: "the environment's Python does not run",
  vllm: "there is no vLLM",
  settled: "an install is under way or half done",
  plugin: "there is no plugin to look at",
  device: "PyTorch was not asked for the device",
};

async function find(check: Check, subject: Subject): Promise<Finding> {
  const missing = check.needs?.find((name) => subject.facts[name] === undefined);
  if (missing !== undefined) return skip(UNKNOWN[missing]);
  const { context } = subject;
  try {
    if (check.progress === undefined) return await check.run(subject);
    return await context.progress.step(check.progress, async () => check.run(subject));
  } catch (error) {
    context.signal.throwIfAborted();
    context.out.debug(`${check.id}: ${error instanceof Error ? error.stack : error}`);
    return fail(messageOf(error), error instanceof KiviError ? error.hint : undefined);
  }
}

/** Runs the checks in order. One that throws has failed; only an interrupt ends the run. */
export async function runChecks(checks: readonly Check[], subject: Subject): Promise<CheckResult[]> {
  const results: CheckResult[] = [];
  for (const check of checks) {
    subject.context.signal.throwIfAborted();
    results.push({ id: check.id, title: check.title, ...(await find(check, subject)) });
  }
  return results;
}
