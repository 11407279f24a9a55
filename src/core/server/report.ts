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
  rank: count,
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

/** The cache of the whole server: all ranks together. */
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
  readonly ranks: number;
  readonly layers: number;
  readonly blockSize: number;
  /** Pages only, summed over layers and ranks. */
  readonly bytesPerToken: number;
  readonly bf16BytesPerToken: number;
  /** As vLLM counts them. */
  readonly tokens: number;
  /** What the same memory, staging included, would hold in bf16. */
  readonly bf16Tokens: number;
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

/** All ranks as one cache; undefined while there is none. A rank that reported twice counts once, by its last word. */
export function combineReports(lines: readonly RankReport[]): CacheReport | undefined {
  const ranks = [...new Map(lines.map((line) => [line.rank, line])).values()];
  const [first] = ranks;
  if (first === undefined) return undefined;
  const sum = (pick: (rank: RankReport) => number): number =>
    ranks.reduce((all, rank) => all + pick(rank), 0);
  const least = (pick: (rank: RankReport) => number): number => Math.min(...ranks.map(pick));
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
    ranks: ranks.length,
    layers: Math.max(...ranks.map((rank) => rank.layers)),
    blockSize: first.block_size,
    bytesPerToken: sum((rank) => rank.bytes_per_token),
    bf16BytesPerToken: sum((rank) => rank.bf16_bytes_per_token),
    tokens: least((rank) => rank.tokens),
    bf16Tokens: least((rank) => rank.bf16_tokens),
    stagingSlots: first.staging_slots,
    stagingBytes: sum((rank) => rank.staging_bytes),
  };
}
