import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { fileFields, schema } from "../../src/commands/bench.schema.js";
import { remaining } from "../../src/core/bench/eta.js";
import { completeConfig } from "../../src/core/bench/index.js";
import { parseShape, shapeName } from "../../src/core/bench/shapes.js";
import { readConfigFile } from "../../src/shared/config-file.js";
import { repository, temporaryFolder } from "../helpers/cli.js";

const home = temporaryFolder();
const matrices = join(repository, "bench", "matrices");

function problems(input: object): string {
  const checked = schema.safeParse(input);
  return checked.success ? "" : checked.error.issues.map((issue) => issue.message).join("\n");
}

describe("shapes", () => {
  it("reads batch x context + new tokens", () => {
    expect(parseShape("4x1024+32")).toEqual({ batch: 4, context: 1024, new: 32 });
    expect(shapeName({ batch: 4, context: 1024, new: 32 })).toBe("4x1024+32");
  });

  it.each([
    "4x1024",
    "4×1024+32",
    "4x1024+0",
    "0x1024+32",
    "4x-1+2",
    "4x1e3+32",
    " 4x1024+32",
    "4x1024+32x",
    "",
    "NaNx1+1",
  ])("refuses %j", (text) => expect(parseShape(text)).toBeUndefined());
});

describe("the flags of bench", () => {
  it("reads lists and sizes", () => {
    expect(schema.parse({ caches: "bf16, k4v4", shapes: "4x1024+32,1x128+8", kvMemory: "1.5GiB" })).toEqual({
      caches: ["bf16", "k4v4"],
      shapes: [
        { batch: 4, context: 1024, new: 32 },
        { batch: 1, context: 128, new: 8 },
      ],
      kvMemory: 1.5 * 2 ** 30,
    });
  });

  it("takes vLLM's own names, and each cache once", () => {
    expect(schema.parse({ caches: "auto,bf16,kivi_k4v4,k4v4,int4_per_token_head" })).toEqual({
      caches: ["bf16", "k4v4", "int4_per_token_head"],
    });
    expect(problems({ caches: "bf16,,K4V4" })).toBe(
      'expected a comma-separated list of caches such as bf16,fp8,k4v4, found ""',
    );
  });

  it("reports every bad value, not the first", () => {
    const text = problems({ shapes: "4x1024,2xa+1", repeats: "NaN", gpuMemoryUtilization: "2" });
    expect(text.split("\n")).toHaveLength(4);
  });
});

describe("a config file", () => {
  const write = (text: string): string => {
    const path = join(home, "matrix.yaml");
    writeFileSync(path, text);
    return path;
  };

  it("holds the same values as flags, in YAML's own types", async () => {
    const path = write(
      "caches: [bf16, k4v2]\nshapes: 4x1024+32\nkv-memory: 2GiB\nrepeats: 5\nkivi:\n  key-group: 64\n  value-residual: 16\n  value-window: 128\n  rotation: false\n",
    );
    expect(await readConfigFile(path, fileFields)).toEqual({
      caches: ["bf16", "k4v2"],
      shapes: [{ batch: 4, context: 1024, new: 32 }],
      kvMemory: 2 * 2 ** 30,
      repeats: 5,
      kivi: { "key-group": 64, "value-residual": 16, "value-window": 128, rotation: false },
    });
  });

  it("holds the sizes of the quality suite in a section of their own", async () => {
    const path = write(
      "quality:\n  windows: 2\n  new-tokens: 16\n  needle-lengths: [512, 2048]\n  needle-depths: 50\n",
    );
    expect(await readConfigFile(path, fileFields)).toEqual({
      quality: { windows: 2, "new-tokens": 16, "needle-lengths": [512, 2048], "needle-depths": [50] },
    });
  });

  it("tells every size of the quality suite that cannot be", async () => {
    const path = write(
      "quality:\n  window: 1\n  needles: 3\n  needle-lengths: []\n  needle-depths: [50, 101, deep]\n",
    );
    const error = await readConfigFile(path, fileFields).catch((thrown: unknown) => thrown);
    expect((error as Error).message.split("\n").sort()).toEqual([
      expect.stringContaining('quality.needle-depths: expected a whole number from 0 to 100, found "101"'),
      expect.stringContaining('quality.needle-depths: expected a whole number from 0 to 100, found "deep"'),
      expect.stringContaining("quality.needle-lengths: "),
      expect.stringContaining("quality.window: expected a whole number from 2"),
      expect.stringContaining('quality: Unrecognized key: "needles"'),
    ]);
  });

  it("reports all its problems at once with file, key and the nearest name", async () => {
    const path = write("cachs: bf16\nrepeats: many\nkivi:\n  rotation: sometimes\nshapes: [4x1, 2x2+2]\n");
    const error = await readConfigFile(path, fileFields).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "config-invalid", exitCode: 2 });
    const lines = (error as Error).message.split("\n");
    expect(lines).toHaveLength(4);
    expect(lines[0]).toBe(`${path}: unknown key "cachs". Did you mean "caches"?`);
    expect(lines[1]).toContain(`${path}: repeats: expected a whole number`);
    expect(lines[2]).toContain(`${path}: kivi.rotation: `);
    expect(lines[3]).toContain('found "4x1"');
  });

  it("names the successors of kivi's window, and the section of a setting that is outside it", async () => {
    const path = write("window: 512\nkey-window: 64\nkivi:\n  window: 64\n");
    const error = await readConfigFile(path, fileFields).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "config-invalid", exitCode: 2 });
    const [outside = "", retired = "", ...more] = (error as Error).message.split("\n");
    expect(outside).toBe(`${path}: unknown key "key-window". It belongs under "kivi:".`);
    expect(retired).toMatch(/: kivi\.window: .*key-window.*value-window/);
    expect(more).toEqual([]);
  });

  it.each(readdirSync(matrices))("of bench/matrices is valid: %s", async (name) => {
    const values = await readConfigFile(join(matrices, name), fileFields);
    expect(values.caches?.length).toBeGreaterThan(1);
  });

  it.each(["- a\n- b\n", "a: [1\n"])("refuses %j", async (text) => {
    await expect(readConfigFile(write(text), fileFields)).rejects.toMatchObject({ code: "config-invalid" });
  });
});

describe("defaults", () => {
  const base = { python: "p", device: "cpu", model: "m", text: "t", output: "o" } as const;

  it("make room for the longest load and window, and for the largest batch", () => {
    const config = completeConfig({ ...base, shapes: [{ batch: 40, context: 2000, new: 100 }] });
    expect(config).toMatchObject({ maxModelLen: 2176, maxNumSeqs: 40, context: 2176, enforceEager: true });
    expect(completeConfig({ ...base, suites: ["capacity"] }).maxModelLen).toBe(128);
  });

  it("leave the quality suite to those who name it, and then make room for its longest sequence", () => {
    expect(completeConfig(base)).toMatchObject({
      suites: ["capacity", "throughput", "perplexity"],
      maxModelLen: 1152,
    });
    const suites = ["quality"] as const;
    // Needle prompts of 1024 tokens, and an answer.
    expect(completeConfig({ ...base, suites }).maxModelLen).toBe(1152);
    expect(completeConfig({ ...base, suites, quality: { needleLengths: [2048] } }).maxModelLen).toBe(2176);
    expect(completeConfig({ ...base, suites, quality: { newTokens: 2000 } }).maxModelLen).toBe(2304);
    expect(completeConfig({ ...base, suites, quality: { window: 4096 } }).maxModelLen).toBe(4224);
  });

  it("refuse a model length that a sequence does not fit in, before anything is measured", () => {
    const asked = { device: "cpu", suites: ["throughput", "quality"], maxModelLen: 1024 } as const;
    expect(() => completeConfig({ ...base, ...asked })).toThrow(
      "--max-model-len 1024 is too short: throughput has sequences of 1057 tokens, quality has sequences of 1048 tokens",
    );
    const { maxModelLen } = completeConfig({ ...base, ...asked, maxModelLen: 1057 });
    expect(maxModelLen).toBe(1057);
  });

  it("keep what was not said of the quality suite", () => {
    const { quality } = completeConfig({ ...base, quality: { windows: 2, prompts: undefined } });
    expect(quality).toMatchObject({ windows: 2, window: 512, prompts: 8 });
    expect(completeConfig({ ...base, device: "cuda" }).quality.windows).toBe(16);
  });

  it("let a GPU decide its memory by utilization unless it is given", () => {
    expect(completeConfig({ ...base, device: "cuda" })).toMatchObject({
      gpuMemoryUtilization: 0.8,
      enforceEager: false,
    });
    const given = completeConfig({ ...base, device: "cuda", kvMemoryBytes: 2 ** 30 });
    expect(given.gpuMemoryUtilization).toBeUndefined();
  });
});

describe("the time left", () => {
  it("is the mean of the cells done, for the rest of this one and those to come", () => {
    expect(remaining([], { left: 3, currentElapsedMs: 5 })).toBeUndefined();
    expect(remaining([100, 200], { left: 2, currentElapsedMs: 50 })).toBe(100 + 300);
    expect(remaining([100], { left: 0, currentElapsedMs: 500 })).toBe(0);
  });
});
