import { describe, expect, it } from "vitest";
import { camelKeys } from "../../src/core/bench/names.js";
import { workerResultSchema } from "../../src/core/bench/result.js";
import { qualityOf, workerResult } from "./fixtures.js";

describe("a worker's result", () => {
  it.each(["bf16", "fp8", "k4v4"])("of %s, as a real worker wrote it, is taken", (cache) => {
    const result = workerResultSchema.parse(camelKeys(workerResult(cache)));
    expect(result.kivi?.preset).toBe(cache === "k4v4" ? "k4v4" : undefined);
  });

  it.each(["bf16", "k4v4"] as const)("of quality for %s, as a real worker wrote it, is taken", (cache) => {
    const worker = { ...workerResult(cache), quality: qualityOf(cache) };
    const { quality } = workerResultSchema.parse(camelKeys(worker));
    expect(quality?.needle.accuracy).toBeGreaterThanOrEqual(0);
    expect(quality?.divergence.klMean === undefined).toBe(cache === "bf16");
  });

  it("with a share above one is refused", () => {
    const quality = camelKeys(qualityOf("k4v4")) as { needle: object };
    const worker = { status: "ok", quality: { ...quality, needle: { ...quality.needle, accuracy: 1.5 } } };
    expect(() => workerResultSchema.parse(worker)).toThrow("accuracy");
  });

  it("without what the plugin says of its windows is refused", () => {
    const result = camelKeys(workerResult("k4v4")) as { kivi: { valueResidual: number } };
    const { valueResidual: _, ...kivi } = result.kivi;
    expect(() => workerResultSchema.parse({ ...result, kivi })).toThrow("valueResidual");
  });
});
