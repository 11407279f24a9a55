/** What a result says of its model, engine and machine: shown beside its figures, and compared between results. */
import { basename } from "node:path";
import { showCommand } from "../../shared/process.js";
import { BASELINE } from "../bench/caches.js";
import { lmEvalSetup } from "../bench/lm-eval-result.js";
import type { BenchResult, Cell } from "../bench/result.js";
import { serveSetup, usersSetup } from "../bench/serving/index.js";
import { qualitySetup } from "./quality-setup.js";

export type FactValue = string | number | boolean;

export interface Fact {
  readonly name: string;
  /** Figures of results that differ in a decisive fact cannot be compared; a version or a setting may be what is compared. */
  readonly kind: "decisive" | "noted" | "time";
  readonly unit?: "bytes";
  /** Of a suite: nothing to say where no result ran it. */
  readonly ofSuite?: true;
  /** A result for which this holds has a decisive fact that says the same better. */
  readonly superseded?: (result: BenchResult) => boolean;
  /** Undefined where the result does not know. */
  read(result: BenchResult): FactValue | undefined;
}

/** The baseline's cell, or the first that ran: all cells share their engine settings and their machine. */
export function referenceCell(result: BenchResult): Cell | undefined {
  const ran = result.cells.filter((cell) => cell.status === "ok");
  return ran.find((cell) => cell.cache === BASELINE) ?? ran[0];
}

/** A fact of a suite. */
function ofSuite(
  name: string,
  read: (cell: Cell) => FactValue | undefined,
  kind: "decisive" | "noted" = "decisive",
): Fact {
  return { name, kind, ofSuite: true, read: ofCell(read) };
}

function ofCell(read: (cell: Cell) => FactValue | undefined): Fact["read"] {
  return (result) => {
    const cell = referenceCell(result);
    return cell === undefined ? undefined : read(cell);
  };
}

/** A setting that was left out is a value too: it is not the same as one that was given. */
function setting(name: string): Fact["read"] {
  return ({ config }) => {
    const value = config[name];
    if (value === undefined || value === null) return "not given";
    return typeof value === "object" ? JSON.stringify(value) : (value as FactValue);
  };
}

export const FACTS: readonly Fact[] = [
  {
    name: "model",
    kind: "decisive",
    // A folder's path says little about what is in it, but results of earlier versions have nothing else.
    superseded: (result) => result.modelFingerprint !== undefined,
    read: (result) => result.model,
  },
  {
    name: "model fingerprint",
    kind: "decisive",
    read: ({ modelFingerprint }) => modelFingerprint?.replace(/^([0-9a-f]{12})[0-9a-f]{52}$/, "$1"),
  },
  { name: "platform", kind: "decisive", read: ofCell((cell) => cell.machine?.platform) },
  { name: "device", kind: "decisive", read: ofCell((cell) => cell.machine?.device) },
  { name: "devices", kind: "decisive", read: ofCell((cell) => cell.machine?.deviceCount) },
  { name: "CPUs", kind: "decisive", read: ofCell((cell) => cell.machine?.cpus) },
  { name: "dtype", kind: "decisive", read: ofCell((cell) => cell.engine?.dtype) },
  { name: "max model length", kind: "decisive", read: ofCell((cell) => cell.engine?.maxModelLen) },
  { name: "max sequences", kind: "decisive", read: ofCell((cell) => cell.engine?.maxNumSeqs) },
  { name: "max batched tokens", kind: "decisive", read: ofCell((cell) => cell.engine?.maxNumBatchedTokens) },
  { name: "eager", kind: "decisive", read: ofCell((cell) => cell.engine?.enforceEager) },
  { name: "prefix caching", kind: "decisive", read: ofCell((cell) => cell.engine?.prefixCaching) },
  { name: "tensor parallel", kind: "decisive", read: ofCell((cell) => cell.engine?.tensorParallelSize) },
  { name: "vLLM arguments", kind: "decisive", read: setting("vllmArgs") },
  { name: "cache memory", kind: "decisive", unit: "bytes", read: setting("kvMemoryBytes") },
  { name: "GPU memory utilization", kind: "decisive", read: setting("gpuMemoryUtilization") },
  { name: "load format", kind: "decisive", read: setting("loadFormat") },
  ofSuite("tokens of a sequence", (cell) => cell.capacity?.context),
  ofSuite("perplexity window", (cell) => cell.perplexity?.window),
  ofSuite("perplexity windows", (cell) => cell.perplexity?.windows),
  ofSuite(
    "perplexity text",
    ({ perplexity }) => perplexity && `sha256 ${perplexity.textSha256.slice(0, 12)}`,
  ),
  {
    name: "text",
    kind: "noted",
    read: ({ config: { dataset, text } }) =>
      typeof dataset === "string" ? dataset : typeof text === "string" ? basename(text) : undefined,
  },
  ofSuite("quality setup", ({ quality }) => quality && qualitySetup(quality)),
  ofSuite("quality text", ({ quality }) => quality && `sha256 ${quality.textSha256.slice(0, 12)}`),
  ofSuite("lm-eval setup", ({ lmEval }) => lmEval && lmEvalSetup(lmEval)),
  ofSuite("lm-eval", ({ lmEval }) => lmEval?.version, "noted"),
  ofSuite("serving setup", ({ serve }) => serve && serveSetup(serve)),
  ofSuite("users setup", ({ concurrency }) => concurrency && usersSetup(concurrency)),
  { name: "vLLM", kind: "noted", read: ofCell((cell) => cell.machine?.vllm) },
  { name: "torch", kind: "noted", read: ofCell((cell) => cell.machine?.torch) },
  { name: "driver", kind: "noted", read: ofCell((cell) => cell.machine?.driver ?? undefined) },
  { name: "Python", kind: "noted", read: ofCell((cell) => cell.machine?.python) },
  {
    name: "vllm-kivi",
    kind: "noted",
    read: (result) => result.cells.find((cell) => cell.machine?.plugin)?.machine?.plugin ?? "not installed",
  },
  { name: "kivi", kind: "noted", read: (result) => result.tool.version },
  { name: "KIVI settings", kind: "noted", read: setting("kivi") },
  { name: "operating system", kind: "noted", read: ofCell((cell) => cell.machine?.os) },
  { name: "rounds", kind: "noted", read: ({ config }) => Number(config.rounds ?? 1) },
  { name: "seed", kind: "noted", read: setting("seed") },
  { name: "command", kind: "time", read: ({ argv }) => argv && showCommand(["kivi", ...argv]) },
  { name: "started", kind: "time", read: (result) => result.createdAt },
  { name: "updated", kind: "time", read: (result) => result.updatedAt },
];
