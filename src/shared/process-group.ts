import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

/** Groups that we lead and that have not been seen empty yet. */
const live = new Set<number>();

process.on("exit", () => killAllGroups());

export function trackGroup(groupId: number): void {
  live.add(groupId);
}

/** Sends a signal to every process of a group; false when there is none left. */
export function signalGroup(groupId: number, signal: NodeJS.Signals): boolean {
  try {
    process.kill(-groupId, signal);
    return true;
  } catch {
    return false;
  }
}

/** SIGKILL, at once, to every child group of this process (second Ctrl-C, or our own end). */
export function killAllGroups(): void {
  for (const groupId of live) signalGroup(groupId, "SIGKILL");
}

/** Process ids of a group that still run; zombies, which nobody may have reaped yet, do not count. */
export function groupMembers(groupId: number): number[] {
  try {
    process.kill(-groupId, 0);
  } catch {
    return [];
  }
  if (process.platform !== "linux") return [groupId];
  const members: number[] = [];
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, "utf8");
      // The command name is in parentheses and may hold spaces; state and group follow it.
      const [state, , group] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      if (Number(group) === groupId && state !== "Z" && state !== "X") members.push(Number(entry));
    } catch {
      // The process ended between the listing and the read.
    }
  }
  return members;
}

async function waitEmpty(groupId: number, limitMs: number): Promise<boolean> {
  const deadline = Date.now() + limitMs;
  while (groupMembers(groupId).length > 0) {
    if (Date.now() >= deadline) return false;
    await sleep(50);
  }
  return true;
}

/** TERM to the group, wait, KILL to the group, wait. Returns the processes that survived (none, as a rule). */
export async function stopGroup(
  groupId: number,
  graceMs: number,
): Promise<{ killed: boolean; left: number[] }> {
  let killed = false;
  if (signalGroup(groupId, "SIGTERM") && !(await waitEmpty(groupId, graceMs))) {
    killed = true;
    signalGroup(groupId, "SIGKILL");
    await waitEmpty(groupId, 5_000);
  }
  const left = groupMembers(groupId);
  if (left.length === 0) live.delete(groupId);
  return { killed, left };
}

/** Forgets a group whose leader has exited by itself, once nothing of it runs. */
export function forgetGroup(groupId: number): void {
  if (groupMembers(groupId).length === 0) live.delete(groupId);
}
