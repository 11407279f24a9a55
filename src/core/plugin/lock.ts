import { readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { environmentError, systemCode } from "../../shared/errors.js";
import type { FileGate } from "./files.js";

interface Owner {
  pid: number;
  host: string;
  /** Start time of the process in clock ticks, where the system tells: a re-used pid is another process. */
  started: string | undefined;
}

const LOCK = ".kivi-lock";
/** After which a lock without content is no longer taken for one that is being written. */
const HALF_WRITTEN_MS = 2_000;

function startTime(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
  } catch {
    return undefined;
  }
}

function alive(owner: Owner): boolean {
  if (owner.host !== hostname()) return true;
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    if (systemCode(error) === "ESRCH") return false;
  }
  return owner.started === undefined || startTime(owner.pid) === owner.started;
}

function read(path: string): { text: string; owner: Owner | undefined } {
  const text = readFileSync(path, "utf8");
  try {
    return { text, owner: JSON.parse(text) as Owner };
  } catch {
    return { text, owner: undefined };
  }
}

/**
 * One kivi at a time changes an environment. The lock is a file made exclusively in site-packages; one whose process
 * is gone is taken over. Returns the release.
 */
export function acquireLock(gate: FileGate, site: string): () => void {
  const path = join(site, LOCK);
  const mine: Owner = { pid: process.pid, host: hostname(), started: startTime(process.pid) };
  for (let attempt = 0; attempt < 5; attempt++) {
    try {
      gate.write(path, Buffer.from(JSON.stringify(mine)));
      return () => rmSync(path, { force: true });
    } catch (error) {
      // A write that broke off (disk full) may have left an empty lock of ours.
      if (systemCode(error) !== "EEXIST") {
        rmSync(path, { force: true });
        throw error;
      }
    }
    takeOver(path, site);
  }
  throw busy(site, undefined, path);
}

interface FoundLock {
  readonly text: string;
  readonly owner: Owner | undefined;
  readonly held: boolean;
}

function look(path: string): FoundLock | undefined {
  try {
    const { text, owner } = read(path);
    const ageMs = Date.now() - statSync(path).mtimeMs;
    // A lock that cannot be read is either being written right now or what a crash left.
    return { text, owner, held: owner === undefined ? ageMs < HALF_WRITTEN_MS : alive(owner) };
  } catch (error) {
    if (systemCode(error) === "ENOENT") return undefined;
    throw error;
  }
}

/** The lock of an environment as it is found: whose it is, and whether that process may still run. */
export function inspectLock(site: string): { path: string; held: boolean; owner: string } | undefined {
  const path = join(site, LOCK);
  const found = look(path);
  return found && { path, held: found.held, owner: nameOf(found.owner) };
}

/** Takes away the lock of a process that is gone; one that cannot be read may be in writing, and is waited for. */
function takeOver(path: string, site: string, waited = false): void {
  const found = look(path);
  if (found === undefined) return;
  if (found.held && found.owner === undefined && !waited) {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, HALF_WRITTEN_MS);
    takeOver(path, site, true);
    return;
  }
  if (found.held) throw busy(site, found.owner, path);
  const aside = `${path}.stale-${process.pid}`;
  try {
    renameSync(path, aside);
  } catch (error) {
    // Another kivi was quicker; the next attempt sees its lock.
    if (systemCode(error) === "ENOENT") return;
    throw error;
  }
  if (read(aside).text === found.text) rmSync(aside, { force: true });
  else renameSync(aside, path);
}

function nameOf(owner: Owner | undefined): string {
  return owner === undefined ? "another kivi" : `process ${owner.pid} on ${owner.host}`;
}

function busy(site: string, owner: Owner | undefined, path: string): Error {
  return environmentError(
    "environment-busy",
    `${site} is being changed by ${nameOf(owner)}.`,
    `Wait for it and run again. If no kivi runs there, remove ${path}.`,
  );
}
