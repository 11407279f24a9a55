/** The vLLM releases this plugin is made for. The rendered plugin carries the same text. */
export const SUPPORTED_VLLM = ">=0.26,<0.27";

/** The release that is installed when none is asked for; measured, and pinned with all it needs. */
export const DEFAULT_VLLM = "0.26.0";

/** Python versions that both vLLM's wheels and the plugin run on. */
export const SUPPORTED_PYTHON = ">=3.10,<3.14";

function release(version: string): number[] | undefined {
  const match = /^(?:\d+!)?v?(\d+(?:\.\d+)*)/.exec(version.trim());
  return match?.[1]?.split(".").map(Number);
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
