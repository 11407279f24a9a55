import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { main } from "../../src/cli/main.js";
import { type BenchResult, benchResultSchema } from "../../src/core/bench/index.js";
import { temporaryFolder } from "../helpers/cli.js";
import { holding, makeMeasuredVenv } from "../helpers/measured-venv.js";
import { cell, good, result, steady } from "./results.js";

const home = temporaryFolder();
mkdirSync(join(home, "model"));
for (const name of ["config.json", "tokenizer.json"]) writeFileSync(join(home, "model", name), "{}");
makeMeasuredVenv(join(home, "good"));
makeMeasuredVenv(join(home, "bad"), holding(100_000));
makeMeasuredVenv(join(home, "broken"), () => ({ status: "failed", reason: "out of memory" }));
save("good.json", good());

function save(name: string, document: unknown): void {
  writeFileSync(join(home, name), typeof document === "string" ? document : JSON.stringify(document));
}

async function run(...argv: string[]) {
  let stdout = "";
  let stderr = "";
  const code = await main(argv, {
    stdout: { write: (text) => (stdout += text) },
    stderr: { write: (text) => (stderr += text) },
    env: { HOME: home, PATH: process.env.PATH },
    cwd: home,
    handleSignals: false,
  });
  return { code, stdout, stderr };
}

const CAPACITY = "k4v4.capacity_ratio < 3.6";

describe("kivi gate", () => {
  it("exits with 0 when every gate passes", async () => {
    const { code, stdout } = await run("gate", "good.json", "--fail-if", CAPACITY);
    expect(code).toBe(0);
    expect(stdout).toBe(`passed   ${CAPACITY}: found 3.60714\n1 of 1 gates passed\n`);
  });

  it("exits with 1 and names each breach, found value and limit", async () => {
    const { code, stdout } = await run(
      ...["gate", "good.json", "--fail-if", "k4v4.capacity_ratio < 4", "--fail-if", "k2v2.perplexity > 30"],
      ...["--fail-if", "fp8.decode_ratio < 1.05", "--fail-if", CAPACITY],
    );
    expect(code).toBe(1);
    expect(stdout).toMatchInlineSnapshot(`
      "passed   k4v4.capacity_ratio < 3.6: found 3.60714
      missing  k2v2.perplexity > 30: k2v2 was not measured
      failed   k4v4.capacity_ratio < 4: found 3.60714
      failed   fp8.decode_ratio < 1.05: found 1.00881 under 4x1024+32 (within noise: its samples reach from 0.516648 to 1.35514)
      1 of 4 gates passed
      "
    `);
  });

  it("refuses a misspelt cache, and takes any that the result was to have", async () => {
    const slip = await run("gate", "good.json", "--fail-if", "k4v5.capacity_ratio < 3.6");
    expect(slip).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('unknown cache "k4v5". Did you mean "k4v4"?'),
    });
    const int4 = cell("fp8", { cache: "int4_per_token_head" });
    save("int4.json", result([cell("bf16"), int4], { planned: ["bf16", "int4_per_token_head"] }));
    const gate = "int4_per_token_head.capacity_ratio < 1.9";
    expect(await run("gate", "int4.json", "--fail-if", gate)).toMatchObject({ code: 0 });
  });

  it("gives the same as JSON", async () => {
    const { code, stdout } = await run("gate", "good.json", "--json", "--fail-if", "k4v4.capacity_ratio<4");
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toEqual({
      file: join(home, "good.json"),
      baseline: null,
      gates: {
        passed: [],
        missing: [],
        failed: [
          {
            gate: "k4v4.capacity_ratio < 4",
            cache: "k4v4",
            metric: "capacity_ratio",
            shape: null,
            operator: "<",
            limit: 4,
            value: 168064 / 46592,
            withinNoise: false,
            message: "k4v4.capacity_ratio < 4: found 3.60714",
          },
        ],
      },
    });
  });

  it("takes the thresholds of a matrix, and those of the command line too", async () => {
    save(
      "matrix.yaml",
      `caches: [bf16, k4v4]\nthresholds:\n  - ${CAPACITY}\n  - k4v4.decode_ratio[4x1024+32] < 0.2\n`,
    );
    const { code, stdout } = await run("gate", "good.json", "--config", "matrix.yaml", "--fail-if", CAPACITY);
    expect(code).toBe(0);
    expect(stdout).toContain("3 of 3 gates passed");
  });

  it.each([
    ["--fail-if", "k4v4.capcity_ratio < 3.6", 'Did you mean "capacity_ratio"?'],
    ["--fail-if", "k4v4.capacity_ratio < NaN", 'expected a number, found "NaN"'],
    ["--fail-if", "", "expected a gate such as"],
    ["--baseline", "good.json", "There is nothing to judge by"],
    ["--fail-if", "k4v4.perplexity rise > 1%", "no earlier result to compare with"],
  ])("refuses %s %j as usage", async (flag, value, words) => {
    const { code, stdout, stderr } = await run("gate", "good.json", flag, value);
    expect(code).toBe(2);
    expect(stdout).toBe("");
    expect(stderr).toContain(words);
  });

  it.each([
    ["thresholds: []", "expected a gate such as"],
    ["thresholds:", "thresholds: "],
    ["thresholds: 3", "expected a gate such as"],
    ["thresholds:\n  - k4v4.capcity_ratio < 3.6", "thresholds: k4v4.capcity_ratio < 3.6: unknown metric"],
    ["thresholds:\n  - k4v4.capacity_ratio: 3.6", "expected a gate such as"],
    ["threshold: k4v4.perplexity < 3", 'unknown key "threshold". Did you mean "thresholds"?'],
    ["caches: bf16", "There is nothing to judge by"],
  ])("refuses a file with %j as usage", async (text, words) => {
    save("wrong.yaml", text);
    const { code, stderr } = await run("gate", "good.json", "--config", "wrong.yaml");
    expect(code).toBe(2);
    expect(stderr).toContain(words);
  });

  it.each([
    ["nothing.json", undefined, "There is no result file"],
    ["text.json", "not JSON", "it is not JSON"],
    ["other.json", { kind: "other" }, 'its "kind" is not'],
    ["null.json", { ...good(), cells: [{ ...cell("bf16"), startSeconds: "1" }] }, "startSeconds"],
  ])("refuses %s as usage", async (name, document, words) => {
    if (document !== undefined) save(name, document);
    const { code, stderr } = await run("gate", name, "--fail-if", CAPACITY);
    expect(code).toBe(2);
    expect(stderr).toContain(words);
  });

  it("judges what an interrupted run left, and says that it is not all", async () => {
    save("part.json", { ...good(), cells: [cell("bf16")], complete: false });
    const part = await run("gate", "part.json", "--fail-if", CAPACITY);
    expect(part).toMatchObject({ code: 1, stdout: expect.stringContaining("k4v4 was not measured") });
    expect(part.stderr).toContain("did not end");
  });

  it("compares with an earlier result", async () => {
    const at = (decode: number) => result([cell("k4v4", { throughput: [steady("1x100+10", 100, decode)] })]);
    save("old.json", at(100));
    save("new.json", at(90));
    const drop = (limit: string) => `k4v4.decode_tokens_per_second drop > ${limit}`;
    const compare = (limit: string) =>
      run("gate", "new.json", "--baseline", "old.json", "--fail-if", drop(limit));
    expect(await compare("5%")).toMatchObject({
      code: 1,
      stdout: expect.stringContaining(`${drop("5%")}: found 10 % under 1x100+10 (90 after 100)`),
    });
    expect((await compare("15%")).code).toBe(0);
  });

  it("refuses to compare unlike results, and a baseline that no gate uses", async () => {
    save("other-model.json", {
      ...good(),
      modelFingerprint: "f2",
      config: { ...good().config, dtype: "float16" },
    });
    const unlike = await run(
      ...["gate", "good.json", "--baseline", "other-model.json", "--fail-if", "k4v4.perplexity rise > 1%"],
    );
    expect(unlike.code).toBe(2);
    expect(unlike.stderr).toContain('model /models/smollm2: "f1" here, "f2" in the baseline');
    expect(unlike.stderr).toContain('config.dtype: "bfloat16" here, "float16" in the baseline');
    const idle = await run("gate", "good.json", "--baseline", "good.json", "--fail-if", CAPACITY);
    expect(idle.code).toBe(2);
    expect(idle.stderr).toContain("no gate compares with it");
  });
});

describe("kivi bench", () => {
  const bench = (venv: string, ...argv: string[]) =>
    run(
      "bench",
      "model",
      "--venv",
      venv,
      "--caches",
      "bf16,k4v4",
      "--output",
      `${venv}.result.json`,
      ...argv,
    );
  const saved = (venv: string): BenchResult =>
    benchResultSchema.parse(JSON.parse(readFileSync(join(home, `${venv}.result.json`), "utf8")));

  it("exits with 0 or 1 by its gates, after the table", async () => {
    const fine = await bench("good", "--fail-if", CAPACITY);
    expect(fine.code).toBe(0);
    expect(fine.stdout).toContain("tokens held");
    expect(fine.stdout).toContain(`passed   ${CAPACITY}: found 3.60714\n1 of 1 gates passed\n`);
    const poor = await bench("bad", "--fail-if", CAPACITY);
    expect(poor.code).toBe(1);
    expect(poor.stdout).toContain(`failed   ${CAPACITY}: found 2.14629\n0 of 1 gates passed\n`);
    expect(saved("bad").complete).toBe(true);
  });

  it("carries the gates under --json, and none in the file, which is of measurements", async () => {
    const { code, stdout } = await bench("bad", "--json", "--fail-if", CAPACITY);
    expect(code).toBe(1);
    const { gates, ...document } = JSON.parse(stdout);
    expect(gates).toMatchObject({ passed: [], failed: [{ gate: CAPACITY }], missing: [] });
    expect(document).toEqual(JSON.parse(readFileSync(join(home, "bad.result.json"), "utf8")));
    expect(JSON.parse((await bench("good", "--json")).stdout)).not.toHaveProperty("gates");
  });

  it("judges thresholds of its configuration", async () => {
    save("bench.yaml", `thresholds: ${CAPACITY}\n`);
    expect((await bench("good", "--config", "bench.yaml")).code).toBe(0);
    expect((await bench("bad", "--config", "bench.yaml")).code).toBe(1);
  });

  it("fails a gate on a cell that failed", async () => {
    const { code, stdout } = await bench("broken", "--fail-if", "k4v4.perplexity > 1000");
    expect(code).toBe(1);
    expect(stdout).toContain("missing  k4v4.perplexity > 1000: k4v4 failed: out of memory");
  });

  it.each([
    ["a misspelt metric", ["--fail-if", "k4v4.capacity_rato < 3"], 'Did you mean "capacity_ratio"?'],
    ["a cache that is not run", ["--fail-if", "k4v2.capacity_ratio < 3"], "no cache k4v2, only bf16, k4v4."],
    [
      "a suite that is not run",
      ["--suites", "capacity", "--fail-if", "k4v4.perplexity > 3"],
      "no suite perplexity, only capacity.",
    ],
    [
      "a load that is not run",
      ["--fail-if", "k4v4.decode_ratio[4x1024+23] < 1"],
      'no load 4x1024+23, only 4x1024+32. Did you mean "4x1024+32"?',
    ],
    ["a change from nothing", ["--fail-if", "k4v4.perplexity rise > 1%"], "no earlier result"],
    ["a baseline without a gate", ["--baseline", "good.json"], "no gate compares with it"],
    [
      "a baseline that is not there",
      ["--baseline", "nothing.json", "--fail-if", "k4v4.perplexity rise > 1%"],
      "There is no result file",
    ],
    [
      "a baseline of another model",
      ["--baseline", "good.json", "--fail-if", "k4v4.perplexity rise > 1%"],
      "model",
    ],
  ])("refuses %s before it measures anything", async (_, argv, words) => {
    const { code, stderr } = await bench("good", "--output", "untouched.json", ...argv);
    expect(code).toBe(2);
    expect(stderr).toContain(words);
    expect(existsSync(join(home, "untouched.json"))).toBe(false);
  });

  it("compares with an earlier result of its own", async () => {
    expect((await bench("good")).code).toBe(0);
    const drop = "k4v4.capacity_tokens drop > 5%";
    const again = (venv: string) => bench(venv, "--baseline", "good.result.json", "--fail-if", drop);
    expect(await again("good")).toMatchObject({ code: 0 });
    expect(await again("bad")).toMatchObject({
      code: 1,
      stdout: expect.stringContaining(`failed   ${drop}: found 40.4989 % (100000 after 168064)`),
    });
  });
});
