import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

/** In the environment of everything that a server starts; a daemon that left the family still carries it. */
export const TAG = "KIVI_SERVER_ID";

interface Entry {
  pid: number;
  parent: number;
  state: string;
  /** Ticks since boot: tells a process from a later one with the same id. */
  started: string;
}

function readEntry(pid: number): Entry | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The command name is in parentheses and may hold spaces and parentheses itself.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return { pid, state: fields[0] ?? "", parent: Number(fields[1]), started: fields[19] ?? "" };
  } catch {
    return undefined;
  }
}

function hasTag(pid: number, tag: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/environ`, "latin1").split("\0").includes(`${TAG}=${tag}`);
  } catch {
    // Ended meanwhile, or another user's.
    return false;
  }
}

/**
 * The processes that come from one child, including those that left its process group (setsid) or its family
 * (re-parented to init). Linux only; elsewhere it knows of none.
 *
 * Two ways, since each has a gap: the family tree, sampled while it stands (misses who left between two samples),
 * and a mark in the environment (lost by programs that write their title over it, as vLLM's do).
 */
export class Descendants {
  readonly #known = new Map<number, string>();
  readonly #tag: string;

  constructor(root: number, tag: string) {
    this.#tag = tag;
    const entry = process.platform === "linux" ? readEntry(root) : undefined;
    if (entry !== undefined) this.#known.set(root, entry.started);
  }

  /** Takes note of who is there now; returns the living ones. */
  sample(): number[] {
    if (process.platform !== "linux") return [];
    const entries = readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name))
      .map((name) => readEntry(Number(name)))
      .filter((entry) => entry !== undefined);
    const isKnown = ({ pid, started }: Entry): boolean => this.#known.get(pid) === started;
    const unknown = new Set(entries.filter((entry) => !isKnown(entry)));
    for (const entry of unknown) {
      if (entry.pid !== process.pid && hasTag(entry.pid, this.#tag)) this.#add(entry, unknown);
    }
    const byPid = new Map(entries.map((entry) => [entry.pid, entry]));
    for (let found = true; found; ) {
      found = false;
      for (const entry of unknown) {
        const parent = byPid.get(entry.parent);
        if (parent === undefined || !isKnown(parent)) continue;
        this.#add(entry, unknown);
        found = true;
      }
    }
    return entries
      .filter((entry) => isKnown(entry) && entry.state !== "Z" && entry.state !== "X")
      .map((entry) => entry.pid);
  }

  #add(entry: Entry, unknown: Set<Entry>): void {
    this.#known.set(entry.pid, entry.started);
    unknown.delete(entry);
  }

  /** TERM, wait, KILL, until none is left; returns those that could not be ended. */
  async stop(graceMs: number): Promise<number[]> {
    const limit = Date.now() + graceMs;
    const give = limit + 5_000;
    const asked = new Set<number>();
    for (let left = this.sample(); left.length > 0; left = this.sample()) {
      if (Date.now() > give) return left;
      for (const pid of left) {
        if (Date.now() > limit) signal(pid, "SIGKILL");
        else if (!asked.has(pid)) signal(pid, "SIGTERM");
        asked.add(pid);
      }
      await sleep(50);
    }
    return [];
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It ended between the look and the signal.
  }
}
