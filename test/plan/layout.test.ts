import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  PRESETS,
  type PresetName,
  recordBytes,
  stagingTokens,
  valueGroupFor,
} from "../../src/core/plan/layout.js";
import { repository } from "../helpers/cli.js";

const HEAD_SIZES = [32, 64, 80, 96, 112, 128, 192, 256];
const NAMES = Object.keys(PRESETS) as PresetName[];

/** Asks the plugin itself; its layout and config need neither torch nor vLLM. */
const ASK = `
import json, sys
from vllm_kivi.config import PRESETS
sizes = json.loads(sys.argv[1])
print(json.dumps({
    name: {
        "stagingTokens": preset.staging_tokens,
        "heads": {size: [preset.layout(size, 128).record_bytes, preset.value_group_for(size)] for size in sizes},
    }
    for name, preset in PRESETS.items()
}))
`;

describe("the page layout", () => {
  const answer = execFileSync("python3", ["-B", "-c", ASK, JSON.stringify(HEAD_SIZES)], {
    encoding: "utf8",
    env: { ...process.env, PYTHONPATH: join(repository, "python-plugin") },
  });
  const plugin = JSON.parse(answer) as Record<
    string,
    { stagingTokens: number; heads: Record<string, [number, number]> }
  >;

  it("has the plugin's presets", () => {
    expect(Object.keys(plugin).sort()).toEqual([...NAMES].sort());
  });

  it.each(NAMES)("is the plugin's own for %s at every head size", (name) => {
    const preset = PRESETS[name];
    const mine = HEAD_SIZES.map((size) => [size, recordBytes(preset, size), valueGroupFor(preset, size)]);
    const theirs = HEAD_SIZES.map((size) => [size, ...(plugin[name]?.heads[size] ?? [])]);
    expect(mine).toEqual(theirs);
    expect(stagingTokens(preset)).toBe(plugin[name]?.stagingTokens);
  });

  it("is within the byte budget at head size 128", () => {
    expect(NAMES.map((name) => recordBytes(PRESETS[name], 128) / 128)).toEqual([137, 111, 88]);
  });
});
