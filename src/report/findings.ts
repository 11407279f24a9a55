/** What a reader of a result must not miss, each with the set and the cell it is about. */
import type { BenchResult, Cell } from "../core/bench/result.js";
import type { Report, ResultSet } from "../core/report/index.js";
import { differences, UNLIKE } from "./about.js";
import { unproven } from "./fill.js";
import { isNoisy, RATES } from "./metrics.js";
import { baseline, notMeasured } from "./rows.js";

export interface Finding {
  readonly level: "error" | "warning";
  readonly title: string;
  readonly message: string;
  readonly set?: ResultSet;
}

/** What says that fewer sequences ran at a time than with the baseline's cache, whatever the cache holds. */
export function fewerSequences({ engine }: Cell, base: Cell | undefined): string | undefined {
  const most = base?.engine?.maxNumSeqs;
  if (engine === undefined || most === undefined || engine.maxNumSeqs >= most) return undefined;
  return `At most ${engine.maxNumSeqs} sequences ran at a time, of the ${most} asked for: staging is limited to a share of the memory (--kv-memory, --max-num-seqs).`;
}

/** As many processes for each CPU are more than an engine's own. */
const BUSY = 1.5;

/** What other work may have done to a cell's rates, which all its samples may share. */
export function busyMachine({ throughput = [] }: Cell): string | undefined {
  const hosts = throughput.flatMap(({ host }) => host ?? []);
  const worst = hosts.toSorted((a, b) => b.load / b.cpus - a.load / a.cpus)[0];
  if (worst === undefined || worst.load <= BUSY * worst.cpus) return undefined;
  return `The machine had other work, a load of ${Math.round(worst.load)} on ${worst.cpus} CPUs: measure again without.`;
}

/** What a reader must know of all figures of a cell, each with a few words that name it. */
export function doubts(cell: Cell, base: Cell | undefined): { about: string; message: string }[] {
  return [
    { about: "on a busy machine", message: busyMachine(cell) },
    { about: "not filled", message: cell.fill && unproven(cell.fill) },
    { about: "with fewer sequences", message: fewerSequences(cell, base) },
  ].flatMap(({ about, message }) => (message === undefined ? [] : [{ about, message }]));
}

type Told = Pick<Finding, "level" | "title" | "message">;

function cellFindings(cell: Cell, base: Cell | undefined): Told[] {
  if (cell.status !== "ok") {
    const level = cell.status === "unsupported" && cell.optional ? "warning" : "error";
    return [{ level, title: `${cell.cache} ${cell.status}`, message: cell.reason ?? "no reason given" }];
  }
  const found: Told[] = [];
  for (const load of cell.throughput ?? []) {
    const noisy = RATES.filter((rate) => isNoisy(load, rate)).map((rate) => rate.name);
    if (noisy.length > 0) {
      found.push({
        level: "warning",
        title: `${cell.cache} noisy`,
        message: `Samples of ${noisy.join(" and ")} at ${load.shape} differ by more than 15 %: measure again or with more --repeats.`,
      });
    }
    if (!load.fits) {
      found.push({
        level: "warning",
        title: `${cell.cache} overloaded`,
        message: `${load.shape} is more tokens than the cache holds: sequences waited or were computed again.`,
      });
    }
  }
  for (const { about, message } of doubts(cell, base))
    found.push({ level: "warning", title: `${cell.cache} ${about}`, message });
  return found;
}

function resultFindings(result: BenchResult): Told[] {
  const base = baseline(result);
  const missing = notMeasured(result);
  return [
    ...(result.complete
      ? []
      : [
          {
            level: "error" as const,
            title: "incomplete",
            message: "The run is not finished or was interrupted; go on with kivi bench --resume.",
          },
        ]),
    ...result.cells.flatMap((cell) => cellFindings(cell, base)),
    ...missing.map((cache) => ({
      level: "error" as const,
      title: `${cache} not measured`,
      message: "It was planned and has no cell.",
    })),
  ];
}

export function findings({ sets, unlike }: Report): Finding[] {
  const insisted: Finding[] =
    unlike.length === 0
      ? []
      : [
          {
            level: "error",
            title: "unlike results",
            message: `${UNLIKE} They differ in ${differences(unlike, sets).join("; ")}.`,
          },
        ];
  return [
    ...insisted,
    ...sets.flatMap((set) => resultFindings(set.result).map((finding) => ({ ...finding, set }))),
  ];
}
