/**
 * The bytes of a KIVI page: the one place in TypeScript that knows them. Mirrors python-plugin/vllm_kivi/layout.py
 * and config.py; a test holds the two against each other.
 */
export const KIVI_BLOCK = 128;

export interface Preset {
  readonly keyBits: 2 | 4;
  readonly valueBits: 2 | 4;
  /** Tokens that share a key scale. */
  readonly keyGroup: number;
  /** Channels that share a value scale; shrunk where it does not divide the head size. */
  readonly valueGroup: number;
  /** Tokens kept in full precision besides the open group. */
  readonly window: number;
}

export const PRESETS = {
  k4v4: { keyBits: 4, valueBits: 4, keyGroup: 128, valueGroup: 64, window: 0 },
  k4v2: { keyBits: 4, valueBits: 2, keyGroup: 128, valueGroup: 32, window: 128 },
  k2v2: { keyBits: 2, valueBits: 2, keyGroup: 32, valueGroup: 32, window: 128 },
} as const satisfies Record<string, Preset>;

export type PresetName = keyof typeof PRESETS;

/** A scale and its zero, packed. */
const SCALE_BYTES = 3;
const RECORD_ALIGNMENT = 16;

/** The largest multiple of 8 channels, at most the preset's group, that divides the head size. */
export function valueGroupFor(preset: Preset, headSize: number): number {
  for (let group = Math.min(preset.valueGroup, headSize); group >= 8; group -= 1) {
    if (group % 8 === 0 && headSize % group === 0) return group;
  }
  return headSize;
}

/** Bytes of one KV head in a page of `blockSize` tokens: codes, scales and zeros of keys and values. */
export function recordBytes(preset: Preset, headSize: number, blockSize = KIVI_BLOCK): number {
  const codes = (blockSize * headSize * (preset.keyBits + preset.valueBits)) / 8;
  const keyScales = (blockSize / preset.keyGroup) * headSize;
  const valueScales = blockSize * (headSize / valueGroupFor(preset, headSize));
  const bytes = codes + SCALE_BYTES * (keyScales + valueScales);
  return Math.ceil(bytes / RECORD_ALIGNMENT) * RECORD_ALIGNMENT;
}

/** Tokens that a sequence holds in full precision: the open group and the window. */
export function stagingTokens(preset: Preset): number {
  return Math.ceil((preset.keyGroup + preset.window) / 8) * 8;
}

/** Bytes of one KV head's page in the model's own dtype, or another of `elementBytes`. */
export function plainPageBytes(headSize: number, elementBytes: number, blockSize: number): number {
  return 2 * headSize * elementBytes * blockSize;
}
