/** A result of the kernel benchmark as its worker writes it, with figures made up. */
import type { KernelsResult, Measurement } from "../../src/core/kernels/result.js";
import { kernelsResultSchema } from "../../src/core/kernels/result.js";

type Load = readonly [implementation: string, batch: number, context: number, ratio: number];

export function timed([implementation, batch, context, ratio]: Load, microseconds: number): Measurement {
  const load = { implementation, batch, context, ratio };
  const times = {
    microseconds,
    samplesUs: [microseconds + 1, microseconds, microseconds - 0.5],
    repeatError: 0,
  };
  return {
    ...load,
    status: "ok",
    ...times,
    bytes: 1_000_000,
    bytesPerSecond: 1e12 / microseconds,
    copyShare: 0.254,
    error: null,
  };
}

export function missing(
  [implementation, batch, context, ratio]: Load,
  status: "skipped" | "failed",
  reason: string,
): Measurement {
  return { implementation, batch, context, ratio, status, reason };
}

export function kernels(more: Partial<KernelsResult> = {}): KernelsResult {
  const copy = { bytes: 4_294_967_296, samplesUs: [1000, 1001], bytesPerSecond: 4.29e12, floorUs: 2.25 };
  return kernelsResultSchema.parse({
    kind: "kivi-kernels",
    schemaVersion: 1,
    tool: { name: "kivi", version: "0.1.0" },
    createdAt: "2026-11-24T10:00:00.000Z",
    updatedAt: "2026-11-24T10:01:00.000Z",
    argv: ["--out", "kernels.json"],
    settings: { headSize: 128, kvHeads: 8, baseline: "fa3-bf16" },
    machine: {
      device: "NVIDIA H200",
      torch: "2.11.0",
      triton: "3.6.0",
      vllm: "0.26.0",
      plugin: null,
      kernels: "0123456789ab",
    },
    copy,
    implementations: [
      { name: "k4v4", title: "KIVI k4v4", optional: true, status: "ok", bytesPerToken: 134 },
      { name: "fa3-bf16", title: "FlashAttention 3", optional: true, status: "ok", bytesPerToken: 512 },
      { name: "fa3-fp8", title: "fp8", optional: true, status: "unsupported", reason: "no FA3 | <here>" },
    ],
    measurements: [
      timed(["k4v4", 16, 32768, 4], 200),
      timed(["fa3-bf16", 16, 32768, 4], 500),
      timed(["k4v4", 1, 512, 4], 8.25),
      missing(["fa3-bf16", 1, 512, 4], "failed", "RuntimeError: =cmd @someone"),
      missing(["k4v4", 256, 131072, 4], "skipped", "it takes 190.0 GiB of the 120.0 GiB that there are"),
      missing(["k4v4", 256, 131072, 8], "skipped", "it takes 190.5 GiB of the 119.0 GiB that there are"),
    ],
    complete: true,
    ...more,
  });
}
