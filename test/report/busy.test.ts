import { describe, expect, it } from "vitest";
import type { Cell } from "../../src/core/bench/result.js";
import { busyMachine } from "../../src/report/findings.js";
import { renderTable } from "../../src/report/table.js";
import { cell, result } from "./results.js";

function underLoad(...loads: number[]): Cell {
  const one = cell("k4v4");
  return {
    ...one,
    throughput: one.throughput?.map((entry, index) => ({
      ...entry,
      host: { load: loads[index] ?? 0, cpus: 4 },
    })),
  };
}

describe("a busy machine", () => {
  it("is told by the load at its worst, which all samples of a load may share", () => {
    const told = "The machine had other work, a load of 9 on 4 CPUs: measure again without.";
    expect(busyMachine(underLoad(1, 9.2, 3))).toBe(told);
    const table = renderTable(result({ cells: [cell("bf16"), underLoad(1, 9.2)] }), undefined, 200);
    expect(table).toMatch(new RegExp(`^k4v4: ${told}$`, "m"));
  });

  it("is none where an engine alone keeps the CPUs busy, nor in results that say nothing of it", () => {
    expect(busyMachine(underLoad(6, 5.9, 4))).toBeUndefined();
    expect(busyMachine(cell("k4v4"))).toBeUndefined();
  });
});
