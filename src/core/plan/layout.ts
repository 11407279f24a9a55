/**
 * The bytes of a KIVI page and of staging: the one place in TypeScript that knows them. Mirrors
 * python-plugin/vllm_kivi/layout.py and config.py; a test holds the two against each other.
 */
import type { Preset } from "../plugin/presets.js";

export const KIVI_BLOCK = 128;

/** A scale and its zero, packed. */
const SCALE_BYTES = 3;
const RECORD_ALIGNMENT = 16;
/** Channels of a staged token that share an exponent byte. */
const STAGING_BLOCK = 8;
/** Tokens that a ring is whole in. */
const STAGING_TILE = 16;

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

function wholeTiles(tokens: number): number {
  return Math.ceil(tokens / STAGING_TILE) * STAGING_TILE;
}

/**
 * Bytes of one sequence's rings in one layer of a GPU: the open group of keys, the open run of values, and their
 * windows, in eight-bit codes with shared exponents.
 */
export function stagingBytesPerSequence(
  preset: Preset,
  about: { kvHeads: number; headSize: number },
): number {
  const tokens =
    wholeTiles(preset.keyGroup + preset.keyWindow) + wholeTiles(preset.valueResidual + preset.valueWindow);
  return tokens * about.kvHeads * (about.headSize + about.headSize / STAGING_BLOCK);
}

/** Bytes of one KV head's page in the model's own dtype, or another of `elementBytes`. */
export function plainPageBytes(headSize: number, elementBytes: number, blockSize: number): number {
  return 2 * headSize * elementBytes * blockSize;
}
