import { readFileSync, rmSync } from "node:fs";

/** As Python's multiprocessing.shared_memory names its segments, which vLLM's processes exchange messages by. */
const SEGMENT = /\/dev\/shm\/psm_\w+/g;

/** The segments that processes have mapped; of those that ended meanwhile, and elsewhere than on Linux, none. */
export function sharedMemoryOf(pids: readonly number[]): string[] {
  return pids.flatMap((pid) => {
    try {
      return readFileSync(`/proc/${pid}/maps`, "utf8").match(SEGMENT) ?? [];
    } catch {
      return [];
    }
  });
}

/** Removes what processes that were killed could not; once nobody uses it any more. */
export function removeSharedMemory(segments: Iterable<string>): void {
  for (const path of segments) rmSync(path, { force: true });
}
