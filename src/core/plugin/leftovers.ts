import type { Venv } from "../venv/venv.js";
import { explainWriteError, fileGate } from "./files.js";
import { acquireLock, inspectLock } from "./lock.js";
import { inspectWork, recover } from "./transaction.js";

/** What kivi left in an environment besides the plugin: nothing, unless it works there now or was killed. */
export interface Leftovers {
  readonly lock: ReturnType<typeof inspectLock>;
  readonly work: ReturnType<typeof inspectWork>;
}

export function findLeftovers({ sitePackages }: Venv): Leftovers {
  return { lock: inspectLock(sitePackages), work: inspectWork(sitePackages) };
}

/** Whether a change is half done: of a kivi that works now or was killed. What is installed cannot be told then. */
export function isHalfDone({ sitePackages }: Venv): boolean {
  return inspectWork(sitePackages)?.unfinished === true;
}

/**
 * Takes back a change that was left half done and removes the lock of a dead process, as the next install would.
 * Tells whether a change was taken back; throws when another kivi is at work.
 */
export async function clearLeftovers({ path, sitePackages }: Venv): Promise<boolean> {
  try {
    const release = acquireLock(fileGate, sitePackages);
    try {
      return recover(fileGate, sitePackages);
    } finally {
      release();
    }
  } catch (error) {
    throw await explainWriteError(error, sitePackages, `kivi doctor ${path} --fix`);
  }
}
