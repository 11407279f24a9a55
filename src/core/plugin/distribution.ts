import { REFUSED_ON_CPU, SUPPORTED_PYTHON, SUPPORTED_VLLM, TESTED_ON_CPU } from "../venv/supported.js";

/** What the Python distribution is called and how vLLM finds it; the one place for both. */
export const DISTRIBUTION = {
  name: "vllm-kivi",
  /** As in file names (PEP 427). */
  fileName: "vllm_kivi",
  package: "vllm_kivi",
  summary: "A KIVI (4-bit and 2-bit) KV cache for vLLM",
  license: "Apache-2.0",
  requiresPython: SUPPORTED_PYTHON.split(",")[0] as string,
  supportedVllm: SUPPORTED_VLLM,
  entryGroup: "vllm.general_plugins",
  entryName: "kivi",
  entryTarget: "vllm_kivi:register",
} as const;

/** What was run of vLLM's CPU build, in Python; a string of JSON is one of Python. */
export function vllmReleases(): { testedOnCpu: string; refusedOnCpu: string } {
  const words = [...TESTED_ON_CPU.keys()].map((release) => JSON.stringify(release));
  const reasons = [...REFUSED_ON_CPU].map(
    ([minor, reason]) => `    ${JSON.stringify(minor)}: ${JSON.stringify(reason)},`,
  );
  return { testedOnCpu: words.join(", "), refusedOnCpu: reasons.join("\n") };
}

/** npm's spelling of a version in Python's (PEP 440): `1.2.0-beta.3` is `1.2.0b3`. */
export function pythonVersion(npmVersion: string): string {
  const match = /^(\d+\.\d+\.\d+)(?:-(alpha|beta|rc)\.(\d+))?$/.exec(npmVersion);
  if (match === null) throw new Error(`package.json: version ${npmVersion} has no Python spelling`);
  const letters = { alpha: "a", beta: "b", rc: "rc" } as const;
  const stage = match[2] as keyof typeof letters | undefined;
  return stage === undefined ? (match[1] as string) : `${match[1]}${letters[stage]}${match[3]}`;
}
