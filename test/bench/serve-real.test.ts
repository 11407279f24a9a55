import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { describe, expect, it } from "vitest";
import { type BenchResult, benchResultSchema } from "../../src/core/bench/index.js";
import { bareEnvironment, kivi, repository, temporaryFolder } from "../helpers/cli.js";
import { below, type Process, processes, refused } from "../helpers/processes.js";
import { writeTinyModel } from "../helpers/tiny-model.js";

/** An environment with real vLLM; `npm test` makes one and names it here. */
const venv = process.env.KIVI_TEST_VENV;

const OFFLINE = { HF_HUB_OFFLINE: "1" };

function bench(model: string, suites: string, caches: string, more: readonly string[] = []): string[] {
  return [
    ...["bench", model, "--venv", venv as string, "--suites", suites, "--caches", caches],
    ...["--load-format", "dummy", "--kv-memory", "64MiB", "--max-num-seqs", "4"],
    ...["--max-batched-tokens", "128", ...more],
  ];
}

describe.skipIf(venv === undefined)("with real vLLM (KIVI_TEST_VENV)", () => {
  it("measures a bf16 server, and keeps it when the engine of the next is killed", async () => {
    const home = temporaryFolder();
    const model = writeTinyModel(join(home, "model"));
    const output = join(home, "result.json");
    const serving = { rates: [4], prompts: 12, "input-tokens": 64, "output-tokens": 8, "warmup-prompts": 2 };
    writeFileSync(
      join(home, "matrix.yaml"),
      JSON.stringify({
        serving: { ...serving, slo: { "ttft-ms": 60_000 } },
        concurrency: { most: 1, "input-tokens": 64, "output-tokens": 8, slo: { "tpot-ms": 60_000 } },
      }),
    );
    const run = kivi(
      bench(model, "serve,concurrency", "bf16,k4v4", [
        ...["--config", "matrix.yaml", "--output", output, "--json"],
        ...["--", "--scheduling-policy", "priority"],
      ]),
      { home, env: OFFLINE },
    );
    let ended = false;
    void run.finally(() => (ended = true)).catch(() => undefined);

    const logs = join(home, ".cache", "vllm-kivi", "logs");
    const written = (): string[] =>
      existsSync(logs) ? readdirSync(logs, { recursive: true, encoding: "utf8" }) : [];
    while (!ended && !written().some((path) => path.endsWith("k4v4.serve-warmup.json"))) await sleep(100);
    const all = processes();
    const server = all.find(({ argv }) => argv.includes("kivi_k4v4") && argv.includes(model));
    const family = server === undefined ? [] : [server, ...below(server.pid, all)];
    const engine = family.find(({ argv }) => argv[0]?.includes("EngineCore"));
    if (engine !== undefined) process.kill(engine.pid, "SIGKILL");

    const { code, stderr } = await run;
    expect(engine, stderr).toBeDefined();
    expect(server?.argv.join(" ")).toContain("--scheduling-policy priority");
    expect({ code, stderr }).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        /The cell k4v4 failed: The server ended by itself.*\n.*k4v4\.server\.log/,
      ),
    });
    const result: BenchResult = benchResultSchema.parse(JSON.parse(readFileSync(output, "utf8")));
    expect(result).toMatchObject({ complete: true, suites: ["serve", "concurrency"] });
    const [bf16, k4v4] = result.cells;
    expect(k4v4).toMatchObject({
      cache: "k4v4",
      status: "failed",
      reason: expect.stringContaining("EngineDeadError"),
    });
    expect(bf16).toMatchObject({
      status: "ok",
      engine: { maxModelLen: 128, maxNumSeqs: 4, prefixCaching: false },
      serve: { inputTokens: 64, outputTokens: 8, cacheTokens: expect.any(Number), loads: [{ rate: "4" }] },
    });
    expect(bf16?.concurrency).toMatchObject({
      users: 1,
      broken: null,
      runs: [{ users: 1, held: true, counted: 2, preemptions: 0 }],
    });
    const [measured] = bf16?.serve?.loads[0]?.runs ?? [];
    expect(measured).toMatchObject({ completed: 12, failed: 0, preemptions: 0, goodput: expect.any(Number) });
    // Poisson arrivals, scaled to 12 requests in 3 seconds.
    expect(measured?.requestsPerSecond).toBeLessThan(4.5);
    expect(measured?.ttftMs.p99).toBeGreaterThanOrEqual(measured?.ttftMs.p50 ?? Number.NaN);

    const living = new Set(processes().map(({ pid }) => pid));
    expect(family.filter(({ pid }) => living.has(pid))).toEqual([]);
    const port = Number(server?.argv[server.argv.indexOf("--port") + 1]);
    expect(await refused(port)).toBe(true);
  }, 600_000);

  it("leaves no server and no engine behind when kivi is killed", async () => {
    const home = temporaryFolder();
    const model = writeTinyModel(join(home, "model"));
    const run = execa(
      process.execPath,
      [join(repository, "bin", "kivi.js"), ...bench(model, "serve", "bf16")],
      { cwd: home, env: bareEnvironment(home, OFFLINE), extendEnv: false, reject: false },
    );
    const isEngine = ({ argv }: Process): boolean => argv[0]?.includes("EngineCore") === true;
    let family: Process[] = [];
    while (run.exitCode === null && !family.some(isEngine)) {
      await sleep(100);
      family = below(run.pid ?? Number.NaN, processes());
    }
    expect(family.find(({ argv }) => argv.includes("vllm.entrypoints.openai.api_server"))).toBeDefined();
    run.kill("SIGKILL");
    await run;

    const left = (): Process[] => {
      const living = new Map(processes().map((one) => [one.pid, one]));
      return family.filter(({ pid }) => living.has(pid));
    };
    for (let tries = 0; tries < 200 && left().length > 0; tries++) await sleep(100);
    expect(left()).toEqual([]);
  }, 300_000);
});
