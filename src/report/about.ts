/** What a reader must know of a result to believe its figures. */
import { BASELINE } from "../core/bench/caches.js";
import { lmEvalSetup } from "../core/bench/lm-eval-result.js";
import { serveSetup, usersSetup } from "../core/bench/serving/index.js";
import type { Fact, Report, ResultSet } from "../core/report/index.js";
import { FACTS, qualitySetup, referenceCell } from "../core/report/index.js";
import { bytes } from "./format.js";

export function factText(fact: Fact, set: ResultSet): string {
  const value = fact.read(set.result);
  if (value === undefined || value === "") return "unknown";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return fact.unit === "bytes" ? bytes(value) : String(value);
  return value;
}

/** The environment as a table: a row for each fact, a column for each set. */
export function environment({ sets }: Report): { name: string; values: string[] }[] {
  const told = FACTS.filter(
    (fact) => !fact.ofSuite || sets.some(({ result }) => fact.read(result) !== undefined),
  );
  return told.map((fact) => ({ name: fact.name, values: sets.map((set) => factText(fact, set)) }));
}

/** One line for each fact that differs between sets. */
export function differences(facts: readonly Fact[], sets: readonly ResultSet[]): string[] {
  return facts.map(
    (fact) => `${fact.name}: ${sets.map((set) => `${factText(fact, set)} (${set.name})`).join(", ")}`,
  );
}

export const UNLIKE = "These results cannot be compared; they are shown together because --force was given.";

/** Title and small print of one result. */
export function about(set: ResultSet): string[] {
  const { result } = set;
  const { machine, engine, perplexity, quality, lmEval, serve, concurrency } = referenceCell(result) ?? {};
  if (machine === undefined || engine === undefined) return [result.model];
  const plugin = result.cells.find((cell) => cell.machine?.plugin)?.machine?.plugin;
  const device = machine.platform === "cpu" ? `${machine.device}, ${machine.cpus} CPUs` : machine.device;
  const memory = result.config.kvMemoryBytes;
  const settings = [
    typeof memory === "number" ? `${bytes(memory)} of cache memory a cell` : "",
    `staging for ${engine.maxNumSeqs} sequences counted`,
    engine.enforceEager ? "eager" : "compiled",
  ];
  return [
    `${result.model} (${engine.dtype}) on ${device}`,
    `vLLM ${machine.vllm}, torch ${machine.torch}, vllm-kivi ${plugin ?? "not installed"}, kivi ${result.tool.version}`,
    settings.filter((part) => part !== "").join(", "),
    ...(perplexity === undefined
      ? []
      : [`perplexity of ${perplexity.windows} windows of ${perplexity.window} tokens of a text`]),
    ...(quality === undefined ? [] : [`quality against ${BASELINE}: ${qualitySetup(quality)}`]),
    ...(lmEval === undefined ? [] : [`lm-eval ${lmEval.version}: ${lmEvalSetup(lmEval)}`]),
    ...(serve === undefined ? [] : [`serving: ${serveSetup(serve)}`]),
    ...(concurrency === undefined ? [] : [`users: ${usersSetup(concurrency)}`]),
  ];
}
