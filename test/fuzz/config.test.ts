import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { stringify } from "yaml";
import { fileFields } from "../../src/commands/bench.schema.js";
import { parseGate } from "../../src/core/gates/index.js";
import { readModel } from "../../src/core/plan/model.js";
import { readConfigFile } from "../../src/shared/config-file.js";
import { Redactor } from "../../src/shared/redact.js";
import { temporaryFolder } from "../helpers/cli.js";
import { fc, noise, Outcomes, resultOrRefusal, spoiled } from "./fuzz.js";

const path = join(temporaryFolder(), "kivi.yaml");
const CONFIG = {
  caches: ["bf16", "k4v4"],
  shapes: "2x512+32",
  repeats: 3,
  "kv-memory": "1GiB",
  kivi: { "key-group": 64, rotation: true },
  quality: { "needle-depths": [10, 50], windows: 2 },
  serving: { rates: [1, "inf"], slo: { "ttft-ms": 500 } },
  concurrency: { most: 8 },
  thresholds: ["k4v4.capacity_ratio < 3.5"],
  "vllm-args": "--pipeline-parallel-size 2",
};

it("a configuration file is read or refused, whatever it holds", async () => {
  const outcomes = new Outcomes();
  const text = fc.oneof(
    noise,
    spoiled(CONFIG).map((value) => stringify(value)),
    noise.map((more) => `${stringify(CONFIG)}${more}`),
  );
  await fc.assert(
    fc.asyncProperty(text, async (content) => {
      writeFileSync(path, content);
      outcomes.count(await resultOrRefusal(() => readConfigFile(path, fileFields)));
    }),
  );
  outcomes.expectBoth();
});

it.each([
  [
    "a bomb of aliases",
    `a: &a [x,x,x,x,x,x,x,x,x,x]\n${[..."bcdefghi"].map((n, i) => `${n}: &${n} [${Array(10).fill(`*${"abcdefgh"[i]}`).join(",")}]\n`).join("")}`,
  ],
  ["an alias of nothing", "caches: *nowhere\n"],
  ["keys that are no words", "? [a, b]\n: 1\n? {c: d}\n: 2\n"],
  ["a tag of another language", "caches: !!python/object/apply:os.system ['true']\n"],
  ["nesting without end", `${"[".repeat(20_000)}`],
])("a configuration file with %s is refused", async (_, content) => {
  writeFileSync(path, content);
  expect(await resultOrRefusal(() => readConfigFile(path, fileFields))).toBeUndefined();
});

it("a gate is read or has its problems told", () => {
  const part = fc.constantFrom(
    "k4v4",
    ".",
    "capacity_ratio",
    "decode_ratio",
    "[4x1024+32]",
    " ",
    "<",
    "drop",
    "3.5",
    "5%",
    "NaN",
  );
  const typed = fc.oneof(
    noise,
    fc.array(part, { maxLength: 9 }).map((parts) => parts.join("")),
  );
  fc.assert(
    fc.property(typed, (text) => {
      const parsed = parseGate(text);
      if ("gate" in parsed) expect(parseGate(parsed.gate.text)).toEqual(parsed);
      else expect(parsed.problems.length).toBeGreaterThan(0);
    }),
  );
});

const MODEL = {
  model_type: "llama",
  hidden_size: 4096,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  num_hidden_layers: 32,
  intermediate_size: 14336,
  vocab_size: 128256,
  layer_types: Array(32).fill("full_attention"),
  sliding_window: null,
  quantization_config: { quant_method: "fp8" },
};

it("a model's config.json is read or refused", async () => {
  const outcomes = new Outcomes();
  const families = ["llama", "gemma2", "gemma3_text", "qwen3_next", "mixtral", "constructor", "__proto__"];
  const document = fc.oneof(
    spoiled(MODEL),
    fc.jsonValue(),
    fc
      .tuple(fc.constantFrom(...families), spoiled(MODEL))
      .map(([model_type, rest]) => ({ ...(rest as object), model_type })),
  );
  await fc.assert(
    fc.asyncProperty(document, async (value) => {
      outcomes.count(await resultOrRefusal(() => readModel(value, "here")));
    }),
  );
  outcomes.expectBoth();
  expect(
    await resultOrRefusal(() =>
      readModel({ ...MODEL, layer_types: undefined, num_hidden_layers: 1e12 }, "here"),
    ),
  ).toBeUndefined();
});

it("no secret is left in a text, and the rest of it stays", () => {
  const secret = fc.string({ minLength: 6, maxLength: 20 }).filter((text) => !text.includes("*"));
  fc.assert(
    fc.property(secret, noise, noise, (value, before, after) => {
      const redactor = new Redactor({ SOME_TOKEN: value }, []);
      expect(redactor.text(`${before} ${value} ${after}`)).not.toContain(value);
      const plain = "nothing to hide: https://example.com/a?b=c#d";
      expect(new Redactor({}, []).text(plain)).toBe(plain);
    }),
  );
});
