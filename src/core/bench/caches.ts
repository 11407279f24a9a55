/** The KV caches a matrix can hold, by the name that people type. */
import { cacheDtype, PRESET_NAMES, type PresetName } from "../plugin/presets.js";

/** `bf16`, a preset of KIVI, or any name that the installed vLLM has for `--kv-cache-dtype`. */
export type CacheName = string;

export interface CacheKind {
  readonly name: CacheName;
  /** What vLLM calls it: the value of `--kv-cache-dtype`. */
  readonly dtype: string;
  /** Needs the plugin. */
  readonly kivi: boolean;
}

export const BASELINE: CacheName = "bf16";

/** Every supported vLLM has these, with the plugin; what runs unless caches are named. */
export const CACHE_NAMES: readonly CacheName[] = [BASELINE, "fp8", ...PRESET_NAMES];

/** vLLM's word for its cache in the model's own dtype. */
const MODEL_DTYPE = "auto";

/** Of the names in results, reports and files. */
export const CACHE_NAME_FORM = /^[a-z0-9_]+$/;

function presetOf(word: string): PresetName | undefined {
  return PRESET_NAMES.find((preset) => word === preset || word === cacheDtype(preset));
}

/** One name for each cache: vLLM's own words for the baseline and for KIVI's caches are taken too. */
export function canonicalName(word: string): CacheName {
  return word === MODEL_DTYPE ? BASELINE : (presetOf(word) ?? word);
}

export function cacheKind(name: CacheName): CacheKind {
  const preset = presetOf(name);
  if (preset !== undefined) return { name, dtype: cacheDtype(preset), kivi: true };
  return { name, dtype: name === BASELINE ? MODEL_DTYPE : name, kivi: false };
}

/** vLLM's own caches before KIVI's, each kind in a fixed order, whatever the order they were measured in. */
export function inOrder(names: Iterable<CacheName>): CacheName[] {
  const place = (name: CacheName): number => {
    const known = CACHE_NAMES.indexOf(name);
    return known >= 0 ? known : CACHE_NAMES.indexOf("fp8") + 0.5;
  };
  return [...new Set(names)].sort((a, b) => place(a) - place(b) || (a < b ? -1 : 1));
}
