/** The saved result of the kernel benchmark, as bench/kivi_bench/kernels/document.py writes it. */
import { readFile } from "node:fs/promises";
import { z } from "zod";
import { usageError } from "../../shared/errors.js";

export const KERNELS_KIND = "kivi-kernels";
export const KERNELS_SCHEMA_VERSION = 1;

const count = z.number().int().nonnegative();
const positive = z.number().positive();

const copy = z.object({
  /** Read and written. */
  bytes: count,
  samplesUs: z.array(positive).min(1),
  bytesPerSecond: positive,
  /** A graph of a kernel that does next to nothing. */
  floorUs: positive,
});

const implementation = z.object({
  name: z.string(),
  title: z.string(),
  /** Missing is then no failure of the run. */
  optional: z.boolean(),
  status: z.enum(["pending", "ok", "unsupported", "failed"]),
  reason: z.string().optional(),
  /** Of one KV head, keys and values. */
  bytesPerToken: positive.optional(),
});

const load = { implementation: z.string(), batch: count, context: count, ratio: count };

const measurement = z.discriminatedUnion("status", [
  z.object({
    ...load,
    status: z.literal("ok"),
    microseconds: positive,
    samplesUs: z.array(positive).min(1),
    bytes: count,
    bytesPerSecond: positive,
    copyShare: positive.nullable(),
    /** Relative difference of two runs. */
    repeatError: z.number().nonnegative(),
    /** Relative error of a small step against plain attention; null where other tests compare. */
    error: z.number().nonnegative().nullable(),
  }),
  z.object({ ...load, status: z.enum(["skipped", "unsupported", "failed"]), reason: z.string() }),
]);

const machine = z.looseObject({
  device: z.string(),
  torch: z.string(),
  triton: z.string().nullable(),
  vllm: z.string().nullable(),
  plugin: z.string().nullable(),
  /** Digest of the kernels' sources. */
  kernels: z.string().nullable(),
});

export const kernelsResultSchema = z.object({
  kind: z.literal(KERNELS_KIND),
  schemaVersion: z.literal(KERNELS_SCHEMA_VERSION),
  tool: z.object({ name: z.literal("kivi"), version: z.string() }),
  createdAt: z.string(),
  updatedAt: z.string(),
  argv: z.array(z.string()),
  settings: z.looseObject({ headSize: count, kvHeads: count, baseline: z.string() }),
  machine: machine.nullable(),
  copy: copy.nullable(),
  copyAtEnd: copy.optional(),
  implementations: z.array(implementation),
  measurements: z.array(measurement),
  complete: z.boolean(),
});

export type KernelsResult = z.infer<typeof kernelsResultSchema>;
export type Measurement = KernelsResult["measurements"][number];

/**
 * Reads a result of the kernel benchmark; undefined for any other file, and one that is not there: those are for the
 * reader of matrices to judge.
 */
export async function readKernels(path: string): Promise<KernelsResult | undefined> {
  let document: { kind?: unknown } | null;
  try {
    document = JSON.parse(await readFile(path, "utf8"));
  } catch {
    return undefined;
  }
  if (document?.kind !== KERNELS_KIND) return undefined;
  const checked = kernelsResultSchema.safeParse(document);
  if (checked.success) return checked.data;
  const [issue] = checked.error.issues;
  throw usageError(
    "not-a-kernels-result",
    `${path} is no result of kivi bench kernels that this kivi knows: ${issue?.path.join(".")}: ${issue?.message}`,
    "Measure again what another version of kivi wrote.",
    { cause: checked.error },
  );
}
