/** Whether two results are of the same model, engine and hardware, so that a change between them means something. */
import type { CacheName } from "../bench/caches.js";
import type { BenchResult, Cell } from "../bench/result.js";

/** What is known of a run before its first cell. */
export type Subject = Pick<BenchResult, "model" | "modelFingerprint" | "config">;

/** Of a result's `config`; versions are left out, since a change of them is what one compares. */
const CONFIG_FIELDS = [
  "device",
  "dtype",
  "maxModelLen",
  "maxNumSeqs",
  "maxNumBatchedTokens",
  "tensorParallelSize",
  "vllmArgs",
  "enforceEager",
  "loadFormat",
  "kvMemoryBytes",
  "gpuMemoryUtilization",
  "kivi",
] as const;

const HARDWARE_FIELDS = ["platform", "device", "deviceCount", "cpus"] as const;

function difference(name: string, own: unknown, other: unknown): string[] {
  const [a, b] = [JSON.stringify(own), JSON.stringify(other)];
  return a === b ? [] : [`${name}: ${a ?? "not set"} here, ${b ?? "not set"} in the baseline`];
}

/** Differences that are known before anything runs. */
export function configDifferences(own: Subject, baseline: Subject): string[] {
  // A folder's path says little about what is in it, but results of earlier versions have nothing else.
  const model =
    own.modelFingerprint === undefined || baseline.modelFingerprint === undefined
      ? difference("model", own.model, baseline.model)
      : difference(`model ${own.model}`, own.modelFingerprint, baseline.modelFingerprint);
  return [
    ...model,
    ...CONFIG_FIELDS.flatMap((name) => difference(`config.${name}`, own.config[name], baseline.config[name])),
  ];
}

function cellDifferences(own: Cell, baseline: Cell): string[] {
  const engine = Object.keys(own.engine ?? {}) as (keyof NonNullable<Cell["engine"]>)[];
  return [
    ...HARDWARE_FIELDS.flatMap((name) =>
      difference(`machine.${name}`, own.machine?.[name], baseline.machine?.[name]),
    ),
    ...engine.flatMap((name) => difference(`engine.${name}`, own.engine?.[name], baseline.engine?.[name])),
  ];
}

/** All differences that forbid a comparison of these caches; a cell that is not in both files has none. */
export function differences(own: BenchResult, baseline: BenchResult, caches: readonly CacheName[]): string[] {
  const pairs = caches.flatMap((cache) => {
    const [a, b] = [own, baseline].map((result) => result.cells.find((cell) => cell.cache === cache));
    return a?.status === "ok" && b?.status === "ok" ? [cellDifferences(a, b)] : [];
  });
  return [...new Set([...configDifferences(own, baseline), ...pairs.flat()])];
}
