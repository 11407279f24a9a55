/** The suite lm-eval: what is refused without it, and with it (`npm run test:lm-eval`) a perplexity in real engines. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { lmEvalSection } from "../../src/commands/lm-eval-settings.schema.js";
import { benchResultSchema } from "../../src/core/bench/index.js";
import { kivi, repository, temporaryFolder } from "../helpers/cli.js";
import { writeTinyModel } from "../helpers/tiny-model.js";

const home = temporaryFolder();
const { KIVI_TEST_VENV, KIVI_LM_EVAL_VENV, KIVI_LM_EVAL_MODEL } = process.env;

it("the section of a file holds tasks and a limit", () => {
  expect(lmEvalSection.parse({ tasks: ["wikitext", "a.yaml", "wikitext"], limit: 3 })).toEqual({
    tasks: ["wikitext", "a.yaml"],
    limit: 3,
  });
  expect(lmEvalSection.parse({ tasks: "wikitext, a.yaml" }).tasks).toEqual(["wikitext", "a.yaml"]);
  for (const wrong of [{ tasks: [] }, { tasks: "a,,b" }, { limit: 0 }, { task: "a" }])
    expect(lmEvalSection.safeParse(wrong).success).toBe(false);
});

it.skipIf(KIVI_TEST_VENV === undefined)(
  "an environment without lm-eval is told so (KIVI_TEST_VENV)",
  async () => {
    const words = ["bench", writeTinyModel(join(home, "tiny")), "--suites", "lm-eval", "--dry-run"];
    const { code, stderr } = await kivi([...words, "--venv", KIVI_TEST_VENV as string], { home });
    expect({ code, stderr }).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(
        /has no lm-eval, which the suite lm-eval runs\.\n.*-m pip install lm-eval/,
      ),
    });
  },
);

describe.skipIf(KIVI_LM_EVAL_VENV === undefined)("with lm-eval (npm run test:lm-eval)", () => {
  const task = (name: string, more: object): string => {
    const path = join(home, `${name}.yaml`);
    const figures = ["word_perplexity", "byte_perplexity", "bits_per_byte"].map((metric) => ({ metric }));
    const settings = {
      task: name,
      dataset_path: "text",
      dataset_kwargs: { data_files: { test: join(home, "text.txt") }, sample_by: "paragraph" },
      test_split: "test",
      doc_to_text: "",
      doc_to_target: "{{text}}",
      output_type: "loglikelihood_rolling",
      metric_list: figures,
      ...more,
    };
    writeFileSync(path, JSON.stringify(settings));
    return path;
  };
  const bench = (tasks: string[], caches: string, limit: number) => {
    const text = readFileSync(join(repository, "bench", "data", "opticks.txt"), "utf8");
    // Documents of several windows each.
    const [first, second, third] = [0, 1, 2].map((index) => text.slice(index * 4000, index * 4000 + 4000));
    const oneLine = (part = ""): string => part.replaceAll(/\s+/g, " ");
    writeFileSync(join(home, "text.txt"), [first, second, third].map(oneLine).join("\n\n"));
    writeFileSync(join(home, "matrix.yaml"), JSON.stringify({ "lm-eval": { tasks, limit } }));
    return kivi(
      [
        ...["bench", KIVI_LM_EVAL_MODEL as string, "--venv", KIVI_LM_EVAL_VENV as string],
        ...["--suites", "lm-eval", "--window", "256", "--caches", caches, "--config", "matrix.yaml"],
        ...["--output", "result.json", "--json"],
      ],
      { home, env: { HF_HUB_OFFLINE: "1" } },
    );
  };

  it("measures a task of a local file, in bf16 and in k4v4", async () => {
    const { code, stderr } = await bench([task("prose", {})], "bf16,k4v4", 2);
    expect({ code, stderr }).toMatchObject({ code: 0 });
    const { cells } = benchResultSchema.parse(JSON.parse(readFileSync(join(home, "result.json"), "utf8")));
    const [bf16, k4v4] = cells.map(({ lmEval }) => lmEval);
    expect(bf16).toMatchObject({ version: expect.any(String), window: 256, limit: 2 });
    const [own, other] = [bf16?.tasks[0], k4v4?.tasks[0]];
    expect(own).toMatchObject({ task: "prose", documents: 2 });
    expect(other?.sha256).toBe(own?.sha256);
    const bits = own?.bitsPerByte ?? Number.NaN;
    expect(own?.bytePerplexity).toBeCloseTo(2 ** bits, 6);
    // A model of this size takes about a bit a byte for English prose, and k4v4 costs it little.
    expect(bits).toBeGreaterThan(0.8);
    expect(bits).toBeLessThan(1.6);
    expect((other?.wordPerplexity ?? 0) / (own?.wordPerplexity ?? 1)).toBeGreaterThan(0.98);
    expect((other?.wordPerplexity ?? 0) / (own?.wordPerplexity ?? 1)).toBeLessThan(1.1);
    const table = await kivi(["report", "result.json"], { home });
    expect(table.stdout).toMatch(/prose: perplexity of a word/);
  }, 1_800_000);

  it.each([
    [
      "a task that is no perplexity",
      () => task("answers", { output_type: "generate_until" }),
      /kind generate_until/,
    ],
    ["a task that is not there", () => "no_such_task", /the task no_such_task cannot be loaded/],
    ["a data set without a network", () => "wikitext", /the task wikitext cannot be loaded: .*Hub/],
  ])(
    "refuses %s before an engine starts",
    async (_, name, reason) => {
      const { code, stdout } = await bench([name()], "bf16", 1);
      expect({ code, stdout }).toMatchObject({ code: 4, stdout: expect.stringMatching(reason) });
    },
    600_000,
  );
});
