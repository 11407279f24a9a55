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
const HALF_WRITTEN_MS = 10_000;

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

function takeOver(path: string, site: string): void {
  let found: ReturnType<typeof read>;
  let ageMs: number;
  try {
    found = read(path);
    ageMs = Date.now() - statSync(path).mtimeMs;
  } catch (error) {
    if (systemCode(error) === "ENOENT") return;
    throw error;
  }
  // A lock that cannot be read is either being written right now or what a crash left.
  const held = found.owner === undefined ? ageMs < HALF_WRITTEN_MS : alive(found.owner);
  if (held) throw busy(site, found.owner, path);
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

function busy(site: string, owner: Owner | undefined, path: string): Error {
  const who = owner === undefined ? "another kivi" : `process ${owner.pid} on ${owner.host}`;
  return environmentError(
    "environment-busy",
    `${site} is being changed by ${who}.`,
    `Wait for it and run again. If no kivi runs there, remove ${path}.`,
  );
}
