import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { recordBytes, stagingBytesPerSequence, valueGroupFor } from "../../src/core/plan/layout.js";
import { PRESET_NAMES, PRESETS, type Preset } from "../../src/core/plugin/presets.js";
import { repository } from "../helpers/cli.js";

const HEAD_SIZES = [32, 64, 80, 96, 112, 128, 192, 256];

/** Asks the plugin itself; its layout and config need neither torch nor vLLM. */
const ASK = `
import json, sys
from dataclasses import replace
from vllm_kivi.config import PRESETS
from vllm_kivi.layout import staged_bytes
sizes = json.loads(sys.argv[1])
print(json.dumps({
    name: {
        "preset": {
            "keyBits": preset.key_bits,
            "valueBits": preset.value_bits,
            "keyGroup": preset.key_group,
            "valueGroup": preset.value_group,
            "keyWindow": preset.key_window,
            "valueResidual": preset.value_residual,
            "valueWindow": preset.value_window,
        },
        "staging": preset.staging_bytes_per_sequence(8, staged_bytes(128)),
        "odd": replace(preset, key_window=3, value_residual=16, value_window=5).staging_bytes_per_sequence(8, staged_bytes(128)),
        "heads": {size: [preset.layout(size, 128).record_bytes, preset.value_group_for(size)] for size in sizes},
    }
    for name, preset in PRESETS.items()
}))
`;

interface Answer {
  readonly preset: Preset;
  /** Bytes of a sequence with 8 KV heads of 128: as it is, and with odd windows. */
  readonly staging: number;
  readonly odd: number;
  readonly heads: Record<string, [number, number]>;
}

describe("the page layout", () => {
  const answer = execFileSync("python3", ["-B", "-c", ASK, JSON.stringify(HEAD_SIZES)], {
    encoding: "utf8",
    env: { ...process.env, PYTHONPATH: join(repository, "python-plugin") },
  });
  const plugin = JSON.parse(answer) as Record<string, Answer>;

  it("has the plugin's presets, every number of them", () => {
    const theirs = Object.entries(plugin).map(([name, { preset }]) => [name, preset]);
    expect(Object.fromEntries(theirs)).toEqual(PRESETS);
  });

  it.each(PRESET_NAMES)("is the plugin's own for %s at every head size", (name) => {
    const preset = PRESETS[name];
    const mine = HEAD_SIZES.map((size) => [size, recordBytes(preset, size), valueGroupFor(preset, size)]);
    const theirs = HEAD_SIZES.map((size) => [size, ...(plugin[name]?.heads[size] ?? [])]);
    expect(mine).toEqual(theirs);
  });

  it.each(PRESET_NAMES)("stages as many bytes as the plugin for %s", (name) => {
    const about = { kvHeads: 8, headSize: 128 };
    const odd = { ...PRESETS[name], keyWindow: 3, valueResidual: 16, valueWindow: 5 };
    expect(stagingBytesPerSequence(PRESETS[name], about)).toBe(plugin[name]?.staging);
    expect(stagingBytesPerSequence(odd, about)).toBe(plugin[name]?.odd);
  });

  it("is within the byte budget at head size 128", () => {
    expect(PRESET_NAMES.map((name) => recordBytes(PRESETS[name], 128) / 128)).toEqual([134, 105, 88]);
  });
});
