/** The KV caches a matrix can hold, by the name that people type. */
export interface CacheKind {
  readonly name: string;
  /** What vLLM calls it: the value of `--kv-cache-dtype`. */
  readonly dtype: string;
  /** Needs the plugin. */
  readonly kivi: boolean;
  readonly description: string;
}

export const CACHES = [
  {
    name: "bf16",
    dtype: "auto",
    kivi: false,
    description: "vLLM's own cache in the model's dtype, the baseline",
  },
  { name: "fp8", dtype: "fp8", kivi: false, description: "vLLM's own cache in 8-bit floating point (e4m3)" },
  { name: "k4v4", dtype: "kivi_k4v4", kivi: true, description: "KIVI, 4-bit keys and values" },
  { name: "k4v2", dtype: "kivi_k4v2", kivi: true, description: "KIVI, 4-bit keys and 2-bit values" },
  { name: "k2v2", dtype: "kivi_k2v2", kivi: true, description: "KIVI, 2-bit keys and values" },
] as const satisfies readonly CacheKind[];

export type CacheName = (typeof CACHES)[number]["name"];

export const CACHE_NAMES = CACHES.map((cache) => cache.name) as [CacheName, ...CacheName[]];
export const BASELINE: CacheName = "bf16";

export function cacheKind(name: CacheName): CacheKind {
  const found = CACHES.find((cache) => cache.name === name);
  if (found === undefined) throw new TypeError(`no cache ${name}`);
  return found;
}
