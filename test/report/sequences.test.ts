import { describe, expect, it } from "vitest";
import type { Cell } from "../../src/core/bench/result.js";
import { fewerSequences, findings } from "../../src/report/findings.js";
import { renderTable } from "../../src/report/table.js";
import { cell, result } from "./results.js";

function atMost(cache: "bf16" | "k4v4", maxNumSeqs: number): Cell {
  const one = cell(cache);
  return { ...one, engine: one.engine && { ...one.engine, maxNumSeqs } };
}

describe("fewer sequences at a time than asked for", () => {
  const told =
    "At most 27 sequences ran at a time, of the 64 asked for: staging is limited to a share of the memory " +
    "(--kv-memory, --max-num-seqs).";

  it("are told in the table and as a finding, in every suite", () => {
    const served = result({ cells: [atMost("bf16", 64), { ...atMost("k4v4", 27), capacity: undefined }] });
    expect(renderTable(served, undefined, 200)).toContain(`\nk4v4: ${told}`);
    const report = { sets: [{ name: "r", path: "r.json", result: served }], unlike: [], changed: [] };
    expect(findings(report)).toContainEqual(
      expect.objectContaining({
        level: "warning",
        title: "k4v4 with fewer sequences",
        message: told,
      }),
    );
  });

  it("are none where the plugin lowered nothing, nor without a baseline", () => {
    expect(fewerSequences(atMost("k4v4", 64), atMost("bf16", 64))).toBeUndefined();
    expect(fewerSequences(atMost("k4v4", 27), undefined)).toBeUndefined();
  });
});
