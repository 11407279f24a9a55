import { z } from "zod";

const count = z.number().int().nonnegative();

/** The JSON after `KIVI_REPORT`, one per worker; a newer plugin may say more. */
const rankReportSchema = z.looseObject({
  version: z.literal(1),
  preset: z.string(),
  key_bits: count,
  value_bits: count,
  key_group: count,
  value_group: count,
  key_window: count,
  value_residual: count,
  value_window: count,
  rotation: z.boolean(),
  clipping: z.boolean(),
  /** Of tensor parallel. */
  rank: count,
  /** The engine; a plugin without the word knows of one engine only. */
  data_parallel_rank: count.default(0),
  block_size: count,
  layers: count,
  bytes_per_token: z.number().positive(),
  bf16_bytes_per_token: z.number().positive(),
  tokens: count,
  bf16_tokens: count,
  staging_slots: count,
  staging_bytes: count,
});

export type RankReport = z.infer<typeof rankReportSchema>;

/** The cache of the whole server: all ranks of all engines together. */
export interface CacheReport {
  readonly preset: string;
  readonly keyBits: number;
  readonly valueBits: number;
  readonly keyGroup: number;
  readonly valueGroup: number;
  readonly keyWindow: number;
  readonly valueResidual: number;
  readonly valueWindow: number;
  readonly rotation: boolean;
  readonly clipping: boolean;
  /** Engines side by side (data parallel), each with a cache of its own. */
  readonly engines: number;
  /** Workers, of all engines. */
  readonly ranks: number;
  readonly layers: number;
  readonly blockSize: number;
  /** Pages only, summed over layers and the ranks of one engine: a token is kept by one engine. */
  readonly bytesPerToken: number;
  readonly bf16BytesPerToken: number;
  /** As vLLM counts them, summed over engines. */
  readonly tokens: number;
  /** What the same memory, staging included, would hold in bf16. */
  readonly bf16Tokens: number;
  /** Sequences at a time, summed over engines. */
  readonly stagingSlots: number;
  readonly stagingBytes: number;
}

const MARK = "KIVI_REPORT ";

/** The report in a line of the server's log, if it holds one. */
export function parseReport(line: string): RankReport | undefined {
  const at = line.indexOf(MARK);
  if (at < 0) return undefined;
  try {
    return rankReportSchema.parse(JSON.parse(line.slice(at + MARK.length)));
  } catch {
    return undefined;
  }
}

/** The sum over ranks or engines. */
function sum<T>(all: readonly T[], pick: (one: T) => number): number {
  return all.reduce((total, one) => total + pick(one), 0);
}

/** The last report of every rank of every engine, by engine. */
function byEngine(lines: readonly RankReport[]): RankReport[][] {
  const engines = new Map<number, Map<number, RankReport>>();
  for (const line of lines) {
    const ranks = engines.get(line.data_parallel_rank) ?? new Map<number, RankReport>();
    engines.set(line.data_parallel_rank, ranks.set(line.rank, line));
  }
  return [...engines.values()].map((ranks) => [...ranks.values()]);
}

/**
 * All ranks as one cache; undefined while there is none. A rank that reported twice counts once, by its last word.
 * The ranks of an engine share each token, and the engine holds what its fullest rank does; engines hold tokens each
 * of their own.
 */
export function combineReports(lines: readonly RankReport[]): CacheReport | undefined {
  const engines = byEngine(lines);
  const ranks = engines.flat();
  const [first] = ranks;
  if (first === undefined) return undefined;
  const perToken = (pick: (rank: RankReport) => number): number =>
    Math.max(...engines.map((engine) => sum(engine, pick)));
  const held = (pick: (rank: RankReport) => number): number =>
    sum(engines, (engine) => Math.min(...engine.map(pick)));
  return {
    preset: first.preset,
    keyBits: first.key_bits,
    valueBits: first.value_bits,
    keyGroup: first.key_group,
    valueGroup: first.value_group,
    keyWindow: first.key_window,
    valueResidual: first.value_residual,
    valueWindow: first.value_window,
    rotation: first.rotation,
    clipping: first.clipping,
    engines: engines.length,
    ranks: ranks.length,
    layers: Math.max(...ranks.map((rank) => rank.layers)),
    blockSize: first.block_size,
    bytesPerToken: perToken((rank) => rank.bytes_per_token),
    bf16BytesPerToken: perToken((rank) => rank.bf16_bytes_per_token),
    tokens: held((rank) => rank.tokens),
    bf16Tokens: held((rank) => rank.bf16_tokens),
    stagingSlots: held((rank) => rank.staging_slots),
    stagingBytes: sum(ranks, (rank) => rank.staging_bytes),
  };
}
