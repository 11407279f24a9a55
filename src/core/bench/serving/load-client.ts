/** vLLM's load client at work on one server. */
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Context } from "../../../shared/context.js";
import { messageOf } from "../../../shared/errors.js";
import { type ClientRun, clientCommand, type RequestSizes } from "./client.js";
import { preemptions } from "./metrics-page.js";
import type { ServingOptions, ServingPlan } from "./run.js";
import { rateName } from "./settings.js";

const METRICS_LIMIT_MS = 10_000;

export type LoadRun = Pick<ClientRun, "rate" | "prompts" | "seed" | "users"> & {
  /** In the names of files; unlike any other run's of this server. */
  readonly name: string;
};

export class LoadClient {
  constructor(
    private readonly ctx: Context,
    private readonly plan: ServingPlan,
    private readonly options: ServingOptions,
    private readonly url: string,
    private readonly signal: AbortSignal,
  ) {}

  onProgress(detail: string, step?: number, steps?: number): void {
    this.options.onProgress(detail, step, steps);
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

  /** One run, and what `read` makes of the file that the client saved, with the preemptions meanwhile. */
  async run<T>(
    run: LoadRun,
    sizes: RequestSizes,
    read: (saved: string, prompts: number) => T,
  ): Promise<T & { preemptions?: number }> {
    const before = preemptions(await this.metricsPage());
    const found = read(await this.#saved(run, sizes), run.prompts);
    const after = preemptions(await this.metricsPage());
    return {
      ...found,
      ...(before === undefined || after === undefined ? {} : { preemptions: after - before }),
    };
  }

  async #saved(load: LoadRun, sizes: RequestSizes): Promise<string> {
    const { venv, server, script, folder } = this.plan;
    const file = `${this.plan.name}.serve-${load.name}.json`;
    await rm(join(folder, file), { force: true });
    const about = { python: venv.python, script, url: this.url, model: server.model, folder, file };
    const finished = await this.ctx.runner.run(
      { argv: clientCommand({ ...about, ...load }, sizes) },
      {
        signal: this.signal,
        // The server is on this machine, whatever proxy leads to others.
        env: { ...this.options.env, NO_PROXY: this.plan.host, no_proxy: this.plan.host },
        logFile: join(folder, `${this.plan.name}.client.log`),
        timeoutMs: this.options.timeoutMs,
      },
    );
    if (finished.timedOut) {
      const limit = Math.round((this.options.timeoutMs ?? 0) / 1000);
      throw new Error(`${where(load)}, the client did not finish in ${limit} s and was ended`);
    }
    if (finished.exitCode !== 0) {
      const how = finished.signal ?? `code ${finished.exitCode}`;
      throw new Error(
        `${where(load)}, the client ended with ${how}: ${finished.tail.at(-1) ?? "it said nothing"}`,
      );
    }
    try {
      return await readFile(join(folder, file), "utf8");
    } catch (error) {
      throw new Error(`${where(load)}, ${messageOf(error)}`);
    }
  }
}

/** Under which load, for messages. */
export function where({ rate, users }: Pick<LoadRun, "rate" | "users">): string {
  return users === undefined ? `at ${rateName(rate)} requests/s` : `with ${users} users`;
}
