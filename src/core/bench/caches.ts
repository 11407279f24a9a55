/** The KV caches a matrix can hold, by the name that people type. */
import { cacheDtype, PRESET_NAMES, type PresetName } from "../plugin/presets.js";

export type CacheName = "bf16" | "fp8" | PresetName;

export interface CacheKind {
  readonly name: CacheName;
  /** What vLLM calls it: the value of `--kv-cache-dtype`. */
  readonly dtype: string;
  /** Needs the plugin. */
  readonly kivi: boolean;
}

export const BASELINE: CacheName = "bf16";

export const CACHES: readonly CacheKind[] = [
  // vLLM's own cache in the model's dtype.
  { name: BASELINE, dtype: "auto", kivi: false },
  // vLLM's own in 8-bit floating point (e4m3).
  { name: "fp8", dtype: "fp8", kivi: false },
  ...PRESET_NAMES.map((name) => ({ name, dtype: cacheDtype(name), kivi: true })),
];

export const CACHE_NAMES = CACHES.map((cache) => cache.name) as [CacheName, ...CacheName[]];

export function cacheKind(name: CacheName): CacheKind {
  const found = CACHES.find((cache) => cache.name === name);
  if (found === undefined) throw new TypeError(`no cache ${name}`);
  return found;
}
