/** The suite `concurrency`: how many users a server bears before it breaks its limits. */
import { messageOf } from "../../../shared/errors.js";
import { readSteadyState } from "./client.js";
import { type LoadClient, type LoadRun, where } from "./load-client.js";
import type { Concurrency, UsersRun } from "./schema.js";
import type { Slo } from "./settings.js";
import type { UserSettings } from "./user-settings.js";

/** The step in which the answer is told: a sixteenth of it, at least one user. */
const PRECISION = 16;

/** The most users that hold, by doubling and then halving the gap; `broken` is the least number that was seen to fail. */
export async function findMost(
  most: number,
  holds: (users: number) => Promise<boolean>,
): Promise<{ users: number; broken: number | undefined }> {
  let users = 0;
  let broken: number | undefined;
  while (broken === undefined && users < most) {
    const next = Math.min(most, Math.max(1, 2 * users));
    if (await holds(next)) users = next;
    else broken = next;
  }
  while (broken !== undefined && broken - users > Math.max(1, Math.floor(users / PRECISION))) {
    const middle = Math.floor((users + broken) / 2);
    if (await holds(middle)) users = middle;
    else broken = middle;
  }
  return { users, broken };
}

/** Whether the run kept every limit. */
export function keeps(run: Omit<UsersRun, "held">, slo: Slo): boolean {
  const within = (value: number, limit: number | undefined): boolean => limit === undefined || value <= limit;
  return (
    within(run.ttftMs.p99, slo.ttftMs) &&
    within(run.tpotMs.p99, slo.tpotMs) &&
    within(run.e2elMs.p99, slo.e2elMs)
  );
}

export async function measureUsers(
  client: LoadClient,
  settings: UserSettings,
  seed: number,
  /** Whether another suite ran on this server before. */
  warm: boolean,
): Promise<Omit<Concurrency, "startSeconds" | "cacheTokens">> {
  const { requests, most, inputTokens, outputTokens, slo } = settings;
  const run = async (users: number, name: string, rounds: number): Promise<Omit<UsersRun, "held">> => {
    const load: LoadRun = { name, rate: "inf", users, prompts: users * rounds, seed };
    const found = await client.run(load, settings, (saved, count) => {
      try {
        return readSteadyState(saved, count, rounds > 1 ? users : 0);
      } catch (error) {
        throw new Error(`${where(load)}, ${messageOf(error)}`);
      }
    });
    return { users, ...found };
  };
  if (!warm) {
    client.onProgress("warming up");
    await run(1, "users-warmup", 1);
  }
  const runs: UsersRun[] = [];
  const { users, broken } = await findMost(most, async (count) => {
    client.onProgress(`${count} users`);
    const found = await run(count, `users-${count}`, requests);
    const held = keeps(found, slo);
    runs.push({ ...found, held });
    return held;
  });
  return { inputTokens, outputTokens, requests, most, slo, seed, users, broken: broken ?? null, runs };
}
