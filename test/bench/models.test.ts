import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { main } from "../../src/cli/main.js";
import { benchResultSchema } from "../../src/core/bench/index.js";
import { temporaryFolder } from "../helpers/cli.js";
import { makeMeasuredVenv } from "../helpers/measured-venv.js";

const home = temporaryFolder();
for (const model of ["one", "two", "more/one"]) {
  mkdirSync(join(home, model), { recursive: true });
  for (const name of ["config.json", "tokenizer.json"]) {
    writeFileSync(join(home, model, name), JSON.stringify({ model }));
  }
}
makeMeasuredVenv(join(home, "venv"));

async function bench(...words: string[]) {
  let stdout = "";
  let stderr = "";
  const code = await main(
    ["bench", ...words, "--venv", "venv", "--caches", "bf16,k4v4", "--suites", "capacity"],
    {
      stdout: { write: (text) => (stdout += text) },
      stderr: { write: (text) => (stderr += text) },
      env: { HOME: home, PATH: process.env.PATH },
      cwd: home,
      handleSignals: false,
    },
  );
  return { code, stdout, stderr };
}

const saved = (name: string) => benchResultSchema.parse(JSON.parse(readFileSync(join(home, name), "utf8")));

it("measures several models, each into a result of its own, judged by the same gates", async () => {
  const gate = ["--fail-if", "k4v4.capacity_ratio < 3.5"];
  const { code, stdout } = await bench("one", "two", "--output", "r.json", "--json", ...gate);
  expect(code).toBe(0);
  const { results } = JSON.parse(stdout) as { results: { model: string; gates: { passed: object[] } }[] };
  expect(results.map(({ model }) => model)).toEqual([join(home, "one"), join(home, "two")]);
  expect(results.map(({ gates }) => gates.passed.length)).toEqual([1, 1]);
  expect(saved("r-one.json")).toMatchObject({ complete: true, model: join(home, "one") });
  expect(saved("r-two.json").modelFingerprint).not.toBe(saved("r-one.json").modelFingerprint);
  expect(existsSync(join(home, "r.json"))).toBe(false);
  expect((await bench("one", "two", "--output", "r.json", "--fail-if", "k4v4.capacity_ratio < 9")).code).toBe(
    1,
  );
});

it("takes them from a file, and shows the cells of all before it runs any", async () => {
  writeFileSync(join(home, "models.yaml"), "model: [one, two]\noutput: f.json\n");
  const { code, stdout } = await bench("--config", "models.yaml", "--dry-run");
  expect(code).toBe(0);
  expect(stdout.match(/^Measure .*$/gm)).toEqual([
    expect.stringContaining("one with 2 caches into"),
    expect.stringContaining("two with 2 caches into"),
  ]);
});

it.each([
  ["a model that is not there", ["one", "three", "--output", "a.json"], "three is neither a folder"],
  ["two of one name", ["one", "more/one", "--output", "a.json"], "are called one"],
  [
    "an earlier result, which is of one model",
    [
      "one",
      "two",
      "--output",
      "a.json",
      "--baseline",
      "b.json",
      "--fail-if",
      "k4v4.capacity_tokens drop > 1%",
    ],
    "--baseline b.json is of one model",
  ],
])("refuses %s before anything is measured", async (_, words, message) => {
  expect(await bench(...words)).toMatchObject({ code: 2, stderr: expect.stringContaining(message) });
  expect(existsSync(join(home, "a-one.json"))).toBe(false);
});
