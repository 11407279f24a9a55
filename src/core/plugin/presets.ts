/**
 * KIVI's presets: the one place in TypeScript that lists them. Mirrors PRESETS of python-plugin/vllm_kivi/config.py;
 * a test holds the two against each other.
 */
export interface Preset {
  readonly keyBits: 2 | 4;
  readonly valueBits: 2 | 4;
  /** Tokens that share a key scale. */
  readonly keyGroup: number;
  /** Channels that share a value scale; shrunk where it does not divide the head size. */
  readonly valueGroup: number;
  /** Tokens before the open group whose keys are read unquantized. */
  readonly keyWindow: number;
  /** Values are read unquantized until a run of this many tokens is complete. */
  readonly valueResidual: number;
  /** Tokens before the open run whose values are still read unquantized. */
  readonly valueWindow: number;
}

export const PRESETS = {
  k4v4: {
    keyBits: 4,
    valueBits: 4,
    keyGroup: 128,
    valueGroup: 128,
    keyWindow: 0,
    valueResidual: 128,
    valueWindow: 0,
  },
  k4v2: {
    keyBits: 4,
    valueBits: 2,
    keyGroup: 128,
    valueGroup: 64,
    keyWindow: 128,
    valueResidual: 128,
    valueWindow: 128,
  },
  k2v2: {
    keyBits: 2,
    valueBits: 2,
    keyGroup: 32,
    valueGroup: 32,
    keyWindow: 128,
    valueResidual: 32,
    valueWindow: 128,
  },
} as const satisfies Record<string, Preset>;

export type PresetName = keyof typeof PRESETS;

export const PRESET_NAMES = Object.keys(PRESETS) as [PresetName, ...PresetName[]];

const DTYPE_PREFIX = "kivi_";

/** What vLLM calls the cache: the value of `--kv-cache-dtype`. */
export function cacheDtype(preset: PresetName): string {
  return `${DTYPE_PREFIX}${preset}`;
}

/** True for a cache that the plugin serves. */
export function isKiviDtype(dtype: string): boolean {
  return dtype.startsWith(DTYPE_PREFIX);
}
