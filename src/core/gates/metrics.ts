/** The closed list of figures that a gate can name, each read from one cell of a saved result. */
import { BASELINE } from "../bench/caches.js";
import type { Cell } from "../bench/result.js";
import { FILL_METRICS } from "./fill.js";
import { SHAPES } from "./loads.js";
import { againstBase, type Metric, metric, unlikeConditions, without } from "./metric.js";
import { QUALITY_METRICS } from "./quality.js";
import { asRise, counted, type Found, isMissing, timed } from "./reading.js";
import { SERVE_METRICS } from "./serve.js";
import { USERS_METRICS } from "./users.js";

type Load = NonNullable<Cell["throughput"]>[number];
type Capacity = NonNullable<Cell["capacity"]>;

function ofCapacity(read: (capacity: Capacity) => number): Metric["read"] {
  return (cell) => (cell.capacity === undefined ? without(cell, "capacity") : counted(read(cell.capacity)));
}

/** Equal shares of a GPU need not be equal bytes; past this difference, the ratio says so. */
const MEMORY_TOLERANCE = 0.02;

const capacityRatio: Metric["read"] = (cell, base, shape) => {
  const found = againstBase(ofCapacity((capacity) => capacity.tokens))(cell, base, shape);
  if (isMissing(found)) return found;
  const [own = 0, other = 0] = [cell.capacity?.totalBytes, base.capacity?.totalBytes];
  if (Math.abs(own / other - 1) <= MEMORY_TOLERANCE) return found;
  const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(2)} GiB`;
  return {
    ...found,
    remarks: [`not in the same memory: ${cell.cache} had ${gib(own)}, ${BASELINE} ${gib(other)}`],
  };
};

function ofLoad(read: (load: Load, remarks: string[]) => Found | undefined): Metric["read"] {
  return (cell, _, shape) => {
    const load = cell.throughput?.find((entry) => entry.shape === shape);
    if (load === undefined) return without(cell, `throughput under the load ${shape}`);
    const remarks = load.fits ? [] : [`${cell.cache} does not hold all tokens of the load at once`];
    return (
      read(load, remarks) ?? {
        missing: `${cell.cache} has no rate under the load ${shape}, its samples are noise`,
      }
    );
  };
}

const prefill = ofLoad((load, remarks) =>
  timed(
    load.prefillTokensPerSecond,
    load.batch * load.context,
    load.samples.map((sample) => sample.prefillSeconds),
    remarks,
  ),
);

const decode = ofLoad((load, remarks) =>
  load.decodeTokensPerSecond === null
    ? undefined
    : timed(
        load.decodeTokensPerSecond,
        load.batch * load.new,
        load.samples.map((sample) => sample.totalSeconds - sample.prefillSeconds),
        remarks,
      ),
);

const perplexity: Metric["read"] = (cell) =>
  cell.perplexity === undefined ? without(cell, "perplexity") : counted(cell.perplexity.perplexity);

const scoredText: Metric["conditions"] = (cell) => ({
  textSha256: cell.perplexity?.textSha256,
  window: cell.perplexity?.window,
  scoredTokens: cell.perplexity?.scoredTokens,
});

const perplexityIncrease: Metric["read"] = (cell, base, shape) => {
  const found = againstBase(perplexity)(cell, base, shape);
  if (isMissing(found)) return found;
  const unlike = unlikeConditions(PERPLEXITY, cell, base);
  if (unlike.length > 0) {
    return { missing: `${cell.cache} and ${BASELINE} were scored on different text (${unlike.join(", ")})` };
  }
  return asRise(found);
};

const PERPLEXITY = metric({
  name: "perplexity",
  meaning: "perplexity of the text",
  suite: "perplexity",
  conditions: scoredText,
  read: perplexity,
});

export const METRICS: readonly Metric[] = [
  metric({
    name: "capacity_tokens",
    meaning: "tokens held",
    suite: "capacity",
    read: ofCapacity((capacity) => capacity.tokens),
  }),
  metric({
    name: "capacity_ratio",
    meaning: "tokens held over those of bf16; staging is paid from the same memory",
    suite: "capacity",
    relative: true,
    read: capacityRatio,
  }),
  metric({
    name: "bytes_per_token",
    meaning: "cache bytes of one token, all layers",
    suite: "capacity",
    read: ofCapacity((capacity) => capacity.bytesPerToken),
  }),
  metric({
    name: "staging_bytes",
    meaning: "bytes of KIVI's staging",
    suite: "capacity",
    read: ofCapacity((capacity) => capacity.stagingBytes),
  }),
  metric({
    name: "concurrency",
    meaning: "sequences of --context tokens held at once",
    suite: "capacity",
    conditions: (cell) => ({ context: cell.capacity?.context }),
    read: ofCapacity((capacity) => capacity.concurrency),
  }),
  ...FILL_METRICS,
  metric({
    name: "prefill_tokens_per_second",
    meaning: "prompt tokens a second, for each load",
    suite: "throughput",
    loads: SHAPES,
    read: prefill,
  }),
  metric({
    name: "prefill_ratio",
    meaning: "the same over that of bf16, for each load",
    suite: "throughput",
    loads: SHAPES,
    relative: true,
    read: againstBase(prefill),
  }),
  metric({
    name: "decode_tokens_per_second",
    meaning: "generated tokens a second, for each load",
    suite: "throughput",
    loads: SHAPES,
    read: decode,
  }),
  metric({
    name: "decode_ratio",
    meaning: "the same over that of bf16, for each load",
    suite: "throughput",
    loads: SHAPES,
    relative: true,
    read: againstBase(decode),
  }),
  PERPLEXITY,
  metric({
    name: "perplexity_increase_percent",
    meaning: "how many percent the perplexity is above that of bf16",
    suite: "perplexity",
    relative: true,
    percent: true,
    conditions: scoredText,
    read: perplexityIncrease,
  }),
  ...QUALITY_METRICS,
  ...SERVE_METRICS,
  ...USERS_METRICS,
  metric({
    name: "start_seconds",
    meaning: "seconds until the engine was ready",
    suite: undefined,
    read: (cell) =>
      cell.startSeconds === undefined ? without(cell, "its start") : counted(cell.startSeconds),
  }),
];

export const METRIC_NAMES: readonly string[] = METRICS.map(({ name }) => name);
