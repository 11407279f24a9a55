/** One server with the cell's cache, and every suite that needs one on it. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Context } from "../../../shared/context.js";
import { KiviError, messageOf } from "../../../shared/errors.js";
import { type CacheReport, freePort, type ServerSettings, startVllm } from "../../server/index.js";
import type { InstalledVllm, Venv } from "../../venv/index.js";
import { LoadClient } from "./load-client.js";
import { type ServedCache, servedCache } from "./metrics-page.js";
import { measureRates } from "./rates.js";
import type { Concurrency, Serve } from "./schema.js";
import type { ServingSettings } from "./settings.js";
import type { UserSettings } from "./user-settings.js";
import { measureUsers } from "./users.js";

export interface ServingPlan {
  readonly venv: Venv;
  readonly vllm: InstalledVllm;
  readonly server: Omit<ServerSettings, "host" | "port">;
  readonly host: string;
  /** Of the suite `serve`, where it is asked for. */
  readonly load?: ServingSettings | undefined;
  /** Of the suite `concurrency`, where it is asked for. */
  readonly users?: UserSettings | undefined;
  readonly seed: number;
  /** bench/client.py and bench/server.py */
  readonly script: string;
  readonly launcher: string;
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
  readonly startSeconds: number;
  readonly serve?: Serve;
  readonly concurrency?: Concurrency;
  readonly cache: ServedCache;
  readonly report: CacheReport | undefined;
}

const START_LIMIT_MS = 30 * 60_000;
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

/** A failure of the client's, with what the server's log has beside it: an answer need not say what was wrong. */
export function withServersWords(reason: string, logged: string | undefined): string {
  const said = logged === undefined || reason.includes(logged.replace(/^\S+: /, ""));
  return said ? reason : `${reason}; the server's log has ${logged}`;
}

/** Starts the server, measures, and leaves nothing of it behind, however it ends. */
export async function serveAndMeasure(
  ctx: Context,
  plan: ServingPlan,
  options: ServingOptions,
): Promise<Served> {
  const { venv, vllm, host, load, users, seed, launcher } = plan;
  const settings = { ...plan.server, host, port: await freePort(host) };
  const logFile = serverLog(plan);
  await rm(logFile, { force: true });
  const { env } = options;
  const request = { venv, vllm, settings, logFile, timeoutMs: START_LIMIT_MS, env, launcher };
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
  const loggedBefore = server.lastException();
  try {
    const client = new LoadClient(ctx, plan, options, server.url, signal);
    const serve = load && (await measureRates(client, load, seed));
    const concurrency = users && (await measureUsers(client, users, seed, serve !== undefined));
    const cache = servedCache(await client.metricsPage());
    const startSeconds = server.startMs / 1000;
    const about = { startSeconds, cacheTokens: cache.tokens };
    return {
      startSeconds,
      ...(serve && { serve: { ...serve, ...about } }),
      ...(concurrency && { concurrency: { ...concurrency, ...about } }),
      cache,
      report: server.report,
    };
  } catch (error) {
    ctx.signal.throwIfAborted();
    const cause = await Promise.race([ended, ctx.clock.sleep(END_GRACE_MS)]).then(
      () => error,
      (end: unknown) => end,
    );
    const logged = server.lastException();
    const words = cause === error && logged !== loggedBefore ? logged : undefined;
    throw new Error(withServersWords(reasonOf(cause), words), { cause });
  } finally {
    await server.stop();
  }
}
