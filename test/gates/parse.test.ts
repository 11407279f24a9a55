import { describe, expect, it } from "vitest";
import { CACHE_NAMES } from "../../src/core/bench/caches.js";
import { METRICS, parseGate } from "../../src/core/gates/index.js";
import { gate, problemsOf } from "./gate.js";

describe("a gate", () => {
  it("is cache.metric, an operator and a number", () => {
    expect(gate("k4v4.capacity_ratio < 3.6")).toMatchObject({
      text: "k4v4.capacity_ratio < 3.6",
      cache: "k4v4",
      metric: { name: "capacity_ratio" },
      shape: undefined,
      change: undefined,
      operator: "<",
      limit: 3.6,
    });
  });

  it("may name a load, and a change against an earlier result", () => {
    expect(gate("k2v2.decode_ratio[4x1024+64]<=.9")).toMatchObject({
      shape: "4x1024+64",
      operator: "<=",
      limit: 0.9,
    });
    expect(gate("fp8.decode_tokens_per_second[1x2+3] drop > 5%")).toMatchObject({
      shape: "1x2+3",
      change: "drop",
      operator: ">",
      limit: 5,
    });
  });

  it("is read alike with any spacing, for every cache, metric and operator", () => {
    for (const cache of CACHE_NAMES) {
      for (const metric of METRICS) {
        if (metric.relative && cache === "bf16") continue;
        for (const operator of ["<", "<=", ">", ">="]) {
          for (const number of ["0", "-1.5", "1e3", "0.25"]) {
            const text = `${cache}.${metric.name} ${operator} ${number}`;
            const read = gate(text);
            expect(read).toMatchObject({ cache, operator, limit: Number(number) });
            expect(gate(` ${text.replaceAll(" ", "")} `)).toEqual(read);
            expect(gate(text.replaceAll(" ", " \t "))).toEqual(read);
            expect(gate(read.text)).toEqual(read);
          }
        }
      }
    }
  });

  it.each([
    ["k4-v4.capacity_ratio < 3", 'unknown cache "k4-v4". Did you mean "k4v4"?'],
    ["K4V4.capacity_ratio < 3", 'unknown cache "K4V4". Did you mean "k4v4"?'],
    ["k4v4.capacity_rato < 3", 'unknown metric "capacity_rato". Did you mean "capacity_ratio"?'],
    ["k4v4.capacity-ratio < 3", 'unknown metric "capacity-ratio". Did you mean "capacity_ratio"?'],
    ["k4v4.x < 3", 'unknown metric "x". Known: capacity_tokens, capacity_ratio, '],
    ["k4v4.toString < 3", 'unknown metric "toString".'],
    ["k4v4.perplexity =< 3", 'unknown operator "=<". Did you mean "<="?'],
    ["k4v4.perplexity => 3", 'unknown operator "=>". Did you mean ">="?'],
    ["k4v4.perplexity == 3", 'unknown operator "==". Did you mean'],
    ["k4v4.perplexity ≤ 3", 'unknown operator "≤".'],
    ["k4v4.perplexity > NaN", 'expected a number, found "NaN"'],
    ["k4v4.perplexity > Infinity", 'expected a number, found "Infinity"'],
    ["k4v4.perplexity > -Infinity", 'expected a number, found "-Infinity"'],
    ["k4v4.perplexity > 1e999", 'expected a number, found "1e999"'],
    ["k4v4.perplexity > 3x", 'expected a number, found "3x"'],
    ["k4v4.perplexity > 1,5", 'expected a number, found "1,5"'],
    ["k4v4.perplexity > 0x10", 'expected a number, found "0x10"'],
    ["k4v4.perplexity > +", 'expected a number, found "+"'],
    ["k4v4.perplexity > 3%", "for drop and rise"],
    ["k4v4.perplexity_increase_percent > 1%", 'in percent already: write "1"'],
    ["bf16.capacity_ratio < 1", "cannot differ from itself"],
    ["k4v4.perplexity[4x1024+32] > 3", "has no loads"],
    ["k4v4.decode_ratio[] < 3", 'found "[]"'],
    ["k4v4.decode_ratio[4×1024+32] < 3", "expected a load such as [4x1024+32]"],
    ["k4v4.perplexity drop > 5", 'write "5%"'],
    ["k4v4.perplexity drop > -5%", "a number of at least 0"],
    ["k4v4.perplexity drop < 5%", "write drop > or drop >="],
    ["k4v4.perplexity drp > 5%", 'unknown change "drp". Did you mean "drop"?'],
    ["k4v4.perplexity_increase_percent rise > 5%", "a change in percent itself"],
  ])("refuses %j", (text, problem) => {
    expect(problemsOf(text)).toContain(`${text}: `);
    expect(problemsOf(text)).toContain(problem);
  });

  it.each([
    "",
    " ",
    "k4v4",
    "k4v4.perplexity",
    "k4v4.perplexity <",
    "k4v4.perplexity 3",
    "k4v4.perplexity < 3 4",
    "k4v4.perplexity lt 3",
    "k4v4 .perplexity < 3",
    "perplexity < 3",
    "perplexity<3.6",
    "3 < k4v4.perplexity",
    "k4v4.perplexity < 3; k4v4.perplexity > 1",
    "[object Object]",
  ])("says what a gate looks like for %j", (text) => {
    expect(problemsOf(text)).toBe(
      `expected a gate such as "k4v4.capacity_ratio < 3.6" (cache.metric, one of < <= > >=, a number), found "${text}"`,
    );
  });

  it("tells all that is wrong with it", () => {
    expect(problemsOf("K4v5.capacty_ratio =< 3x").split("\n")).toHaveLength(4);
  });

  it("with one character changed is refused or reads that character: nothing is guessed", () => {
    const text = "k4v4.decode_ratio[4x1024+32] <= 0.9";
    for (let at = 0; at < text.length; at++) {
      for (const wrong of ["z", "%", "[", "=", "-", ".", ""]) {
        const slip = text.slice(0, at) + wrong + text.slice(at + 1);
        const read = parseGate(slip);
        if ("gate" in read) expect(read.gate.text.replaceAll(" ", "")).toBe(canonical(slip));
        else expect(read.problems.length).toBeGreaterThan(0);
      }
    }
  });
});

/** The same text with its number in one spelling. */
function canonical(text: string): string {
  const [, head = "", number = ""] = /^(.*?)([-\d.]+)$/.exec(text.replaceAll(" ", "")) ?? [];
  return `${head}${Number(number)}`;
}
