/** One server with the cell's cache, and vLLM's client on it at every rate. */
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Context } from "../../../shared/context.js";
import { KiviError, messageOf } from "../../../shared/errors.js";
import { type CacheReport, freePort, type ServerSettings, startVllm } from "../../server/index.js";
import type { InstalledVllm, Venv } from "../../venv/index.js";
import { clientCommand, readClientResult } from "./client.js";
import { preemptions, type ServedCache, servedCache } from "./metrics-page.js";
import type { Serve, ServeRun } from "./schema.js";
import { type Rate, rateName, type ServingSettings } from "./settings.js";

export interface ServingPlan {
  readonly venv: Venv;
  readonly vllm: InstalledVllm;
  readonly server: Omit<ServerSettings, "host" | "port">;
  readonly load: ServingSettings;
  readonly seed: number;
  /** bench/client.py */
  readonly script: string;
  readonly folder: string;
  /** Begins the names of this cell's files in `folder`. */
  readonly name: string;
}

export interface ServingOptions {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** For one run of the client. */
  readonly timeoutMs?: number | undefined;
  onProgress(detail: string, step?: number, steps?: number): void;
}

export interface Served {
  readonly serve: Serve;
  readonly cache: ServedCache;
  readonly report: CacheReport | undefined;
}

const HOST = "127.0.0.1";
const START_LIMIT_MS = 30 * 60_000;
const METRICS_LIMIT_MS = 10_000;
/** A server whose engine died answers errors for a moment before it ends; its end says more than they do. */
const END_GRACE_MS = 5_000;

export function serverLog({ folder, name }: ServingPlan): string {
  return join(folder, `${name}.server.log`);
}

/** Thrown when the server did not come up, before anything was asked of it. */
export class NotServing extends Error {}

/** What is wrong in one line; the log says the rest. */
function reasonOf(error: unknown): string {
  const line = messageOf(error).split("\n")[0] ?? "";
  const why = error instanceof KiviError ? error.details?.reason : undefined;
  return typeof why === "string" ? `${line.replace(/ Its last lines:$/, "")} ${why}` : line;
}

/** Starts the server, measures, and leaves nothing of it behind, however it ends. */
export async function serveAndMeasure(
  ctx: Context,
  plan: ServingPlan,
  options: ServingOptions,
): Promise<Served> {
  const { venv, vllm } = plan;
  const settings = { ...plan.server, host: HOST, port: await freePort(HOST) };
  const logFile = serverLog(plan);
  await rm(logFile, { force: true });
  const request = { venv, vllm, settings, logFile, timeoutMs: START_LIMIT_MS, env: options.env };
  const server = await startVllm(ctx, request, { update: options.onProgress }).catch((error: unknown) => {
    ctx.signal.throwIfAborted();
    throw new NotServing(reasonOf(error), { cause: error });
  });
  const over = new AbortController();
  const ended = server.wait().catch((error: unknown) => {
    over.abort(error);
    throw error;
  });
  ended.catch(() => undefined);
  const signal = AbortSignal.any([ctx.signal, over.signal]);
  try {
    const client = new Client(ctx, plan, options, server.url, signal);
    const serve = await client.measure(server.startMs / 1000);
    const cache = servedCache(await client.metricsPage());
    return { serve: { ...serve, cacheTokens: cache.tokens }, cache, report: server.report };
  } catch (error) {
    ctx.signal.throwIfAborted();
    const cause = await Promise.race([ended, ctx.clock.sleep(END_GRACE_MS)]).then(
      () => error,
      (end: unknown) => end,
    );
    throw new Error(reasonOf(cause), { cause });
  } finally {
    await server.stop();
  }
}

class Client {
  constructor(
    private readonly ctx: Context,
    private readonly plan: ServingPlan,
    private readonly options: ServingOptions,
    private readonly url: string,
    private readonly signal: AbortSignal,
  ) {}

  /** Every rate once before any of them again, so that a slow spell of the machine falls on all. */
  async measure(startSeconds: number): Promise<Serve> {
    const { load, seed } = this.plan;
    const { rates, repeats, prompts, inputTokens, outputTokens, warmupPrompts, slo } = load;
    this.options.onProgress(`warming up with ${warmupPrompts} requests`);
    // Prompts of its own, so that nothing measured was seen before.
    await this.#run("warmup", "inf", warmupPrompts, seed + repeats);
    const runs = new Map<Rate, ServeRun[]>(rates.map((rate) => [rate, []]));
    const steps = rates.length * repeats;
    for (let repeat = 0; repeat < repeats; repeat++) {
      for (const [index, rate] of rates.entries()) {
        const step = repeat * rates.length + index + 1;
        this.options.onProgress(`${rateName(rate)} requests/s`, step, steps);
        const name = `${rateName(rate)}-${repeat + 1}`;
        const before = preemptions(await this.metricsPage());
        const run = await this.#run(name, rate, prompts, seed + repeat);
        const after = preemptions(await this.metricsPage());
        const counted = before === undefined || after === undefined ? {} : { preemptions: after - before };
        runs.get(rate)?.push({ ...run, ...counted });
      }
    }
    const loads = rates.map((rate) => ({ rate: rateName(rate), runs: runs.get(rate) ?? [] }));
    return { prompts, inputTokens, outputTokens, warmupPrompts, seed, slo, startSeconds, loads };
  }

  async metricsPage(): Promise<string> {
    try {
      const limit = AbortSignal.timeout(METRICS_LIMIT_MS);
      const answer = await fetch(`${this.url}/metrics`, { signal: AbortSignal.any([this.signal, limit]) });
      return answer.ok ? await answer.text() : "";
    } catch {
      // A server that is gone is noticed as such; one that only lacks this page is none the worse.
      return "";
    }
  }

  async #run(name: string, rate: Rate, prompts: number, seed: number): Promise<ServeRun> {
    const { venv, server, script, folder } = this.plan;
    const file = `${this.plan.name}.serve-${name}.json`;
    await rm(join(folder, file), { force: true });
    const about = { python: venv.python, script, url: this.url, model: server.model, folder, file };
    const finished = await this.ctx.runner.run(
      { argv: clientCommand({ ...about, rate, prompts, seed }, this.plan.load) },
      {
        signal: this.signal,
        // The server is on this machine, whatever proxy leads to others.
        env: { ...this.options.env, NO_PROXY: HOST, no_proxy: HOST },
        logFile: join(folder, `${this.plan.name}.client.log`),
        timeoutMs: this.options.timeoutMs,
      },
    );
    const where = `at ${rateName(rate)} requests/s`;
    if (finished.timedOut) {
      const limit = Math.round((this.options.timeoutMs ?? 0) / 1000);
      throw new Error(`${where}, the client did not finish in ${limit} s and was ended`);
    }
    if (finished.exitCode !== 0) {
      const how = finished.signal ?? `code ${finished.exitCode}`;
      throw new Error(`${where}, the client ended with ${how}: ${finished.tail.at(-1) ?? "it said nothing"}`);
    }
    try {
      return readClientResult(await readFile(join(folder, file), "utf8"), prompts);
    } catch (error) {
      throw new Error(`${where}, ${messageOf(error)}`);
    }
  }
}
