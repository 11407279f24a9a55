import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { camelKeys } from "../../src/core/bench/names.js";
import { workerResultSchema } from "../../src/core/bench/result.js";
import { openResult } from "../../src/core/bench/result-file.js";
import { readClientResult, readSteadyState } from "../../src/core/bench/serving/client.js";
import { preemptions, servedCache } from "../../src/core/bench/serving/metrics-page.js";
import { parseShape, shapeName } from "../../src/core/bench/shapes.js";
import { readKernels } from "../../src/core/kernels/result.js";
import { loadReport } from "../../src/core/report/index.js";
import { FailureWatch } from "../../src/core/server/failures.js";
import { combineReports, parseReport } from "../../src/core/server/report.js";
import { FORMATS, renderAs } from "../../src/report/formats.js";
import { recordedText, savedResult, workerResult } from "../bench/fixtures.js";
import { repository, temporaryFolder } from "../helpers/cli.js";
import { fc, noise, Outcomes, resultOrRefusal, spoiled } from "./fuzz.js";

const home = temporaryFolder();
const path = join(home, "result.json");
const templates = join(repository, "templates");
const json = (value: unknown): string => JSON.stringify(value);

const cell = (cache: string) => ({
  ...workerResultSchema.parse(camelKeys(workerResult(cache))),
  key: cache,
  cache,
  cacheDtype: "auto",
  optional: false,
  startedAt: "2026-01-02T03:04:05.000Z",
  seconds: 1,
  log: "/log",
});
const RESULT = savedResult([cell("bf16"), cell("k4v4")], { planned: ["bf16", "k4v4"] });

it("a saved result is read and rendered in every format, or refused", async () => {
  const outcomes = new Outcomes();
  const text = fc.oneof(noise, spoiled(RESULT).map(json), fc.constant(json(RESULT)));
  await fc.assert(
    fc.asyncProperty(text, fc.constantFrom(...FORMATS), async (content, format) => {
      writeFileSync(path, content);
      outcomes.count(
        await resultOrRefusal(async () => {
          await openResult(path);
          return renderAs(format, await loadReport([path], { cwd: home, force: false }), { templates });
        }),
      );
      await resultOrRefusal(() => readKernels(path));
    }),
    { numRuns: 200 },
  );
  outcomes.expectBoth();
});

it("what a worker or vLLM's client wrote is read or refused", async () => {
  const saved = JSON.parse(recordedText("client.json")) as { num_prompts: number };
  const known = /not of the known form|requests failed|no times of each request/;
  let read = 0;
  fc.assert(
    fc.property(fc.oneof(noise, spoiled(saved).map(json)), (text) => {
      for (const reader of [
        readClientResult,
        (content: string, prompts: number) => readSteadyState(content, prompts, 1),
      ]) {
        try {
          reader(text, saved.num_prompts);
          read += 1;
        } catch (error) {
          expect((error as Error).message).toMatch(known);
        }
      }
    }),
  );
  expect(read).toBeGreaterThan(0);
  fc.assert(
    fc.property(
      spoiled(workerResult("k4v4")),
      (value) => void workerResultSchema.safeParse(camelKeys(value)),
    ),
  );
});

it("a log is read for the cause of a failure in little time, whatever its lines are", () => {
  const about = { host: "h", port: 1, venv: "/v", model: "m", device: "cpu" } as const;
  const long = fc
    .constantFrom("a", "a.", "max seq len (1)", "(Worker pid=1) ERROR ", "Error: ")
    .map((part) => part.repeat(100_000));
  const startedAt = performance.now();
  fc.assert(
    fc.property(fc.array(fc.oneof(noise, long), { maxLength: 4 }), (lines) => {
      const watch = new FailureWatch();
      for (const line of lines) watch.see(line);
      expect(watch.explain(about, { exitCode: 1 }).reason).not.toBe("");
    }),
    { numRuns: 100 },
  );
  expect(performance.now() - startedAt).toBeLessThan(30_000);
});

it("a report of a worker, a page of metrics and a shape are read or are none", () => {
  const numbers = [
    "key_bits",
    "value_bits",
    "key_group",
    "value_group",
    "key_window",
    "value_residual",
    "value_window",
  ];
  numbers.push(
    "rank",
    "block_size",
    "layers",
    "bytes_per_token",
    "bf16_bytes_per_token",
    "tokens",
    "bf16_tokens",
  );
  numbers.push("staging_slots", "staging_bytes");
  const flags = { version: 1, preset: "k4v4", rotation: true, clipping: false };
  const report = { ...flags, ...Object.fromEntries(numbers.map((name) => [name, 8])) };
  expect(parseReport(`KIVI_REPORT ${json(report)}`)).toBeDefined();
  fc.assert(
    fc.property(fc.oneof(noise, spoiled(report).map(json)), (text) => {
      const found = parseReport(`(Worker pid=1) INFO KIVI_REPORT ${text}`);
      if (found !== undefined) expect(combineReports([found])?.ranks).toBe(1);
    }),
  );
  const page = recordedText("server.metrics.txt").split("\n");
  fc.assert(
    fc.property(fc.array(fc.oneof(noise, fc.constantFrom(...page)), { maxLength: 8 }), (lines) => {
      const { tokens, blockSize } = servedCache(lines.join("\n"));
      for (const value of [tokens, blockSize])
        expect(value === undefined || Number.isFinite(value)).toBe(true);
      preemptions(lines.join("\n"));
    }),
  );
  fc.assert(
    fc.property(fc.oneof(noise, fc.stringMatching(/^\d{0,3}x\d{0,3}\+\d{0,3}$/)), (text) => {
      const shape = parseShape(text);
      if (shape !== undefined) expect(shapeName(shape)).toBe(text);
    }),
  );
});
