/** The suite `serve`: the server under each rate of requests. */
import { messageOf } from "../../../shared/errors.js";
import { readClientResult } from "./client.js";
import { type LoadClient, type LoadRun, where } from "./load-client.js";
import type { Serve, ServeRun } from "./schema.js";
import { type Rate, rateName, type ServingSettings } from "./settings.js";

/** Every rate once before any of them again, so that a slow spell of the machine falls on all. */
export async function measureRates(
  client: LoadClient,
  load: ServingSettings,
  seed: number,
): Promise<Omit<Serve, "startSeconds" | "cacheTokens">> {
  const { rates, repeats, prompts, inputTokens, outputTokens, warmupPrompts, slo } = load;
  const run = async (one: LoadRun): Promise<ServeRun> =>
    client.run(one, load, (saved, count) => {
      try {
        return readClientResult(saved, count);
      } catch (error) {
        throw new Error(`${where(one)}, ${messageOf(error)}`);
      }
    });
  client.onProgress(`warming up with ${warmupPrompts} requests`);
  // Prompts of its own, so that nothing measured was seen before.
  await run({ name: "warmup", rate: "inf", prompts: warmupPrompts, seed: seed + repeats });
  const runs = new Map<Rate, ServeRun[]>(rates.map((rate) => [rate, []]));
  const steps = rates.length * repeats;
  for (let repeat = 0; repeat < repeats; repeat++) {
    for (const [index, rate] of rates.entries()) {
      client.onProgress(`${rateName(rate)} requests/s`, repeat * rates.length + index + 1, steps);
      const name = `${rateName(rate)}-${repeat + 1}`;
      runs.get(rate)?.push(await run({ name, rate, prompts, seed: seed + repeat }));
    }
  }
  const loads = rates.map((rate) => ({ rate: rateName(rate), runs: runs.get(rate) ?? [] }));
  return { prompts, inputTokens, outputTokens, warmupPrompts, seed, slo, loads };
}
