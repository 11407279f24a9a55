import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { capacityBars, qualityPoints } from "../../src/report/html/data.js";
import { repository } from "../helpers/cli.js";
import { cell, result } from "./results.js";

it("gives each cache one colour of the page in all plots, those that vLLM alone has too", () => {
  const others = ["turboquant_k8v4", "int4_per_token_head"].map((cache) => cell("fp8", { cache }));
  const cells = [others[0], cell("bf16"), others[1], cell("k4v4")].flatMap((one) => one ?? []);
  const report = { sets: [{ name: "", path: "", result: result({ cells }) }], unlike: [], changed: [] };
  const bars = capacityBars(report);
  expect(bars.map(({ cache, colour }) => [cache, colour])).toEqual([
    ["bf16", "var(--cache-bf16)"],
    ["int4_per_token_head", "var(--cache-other-1)"],
    ["turboquant_k8v4", "var(--cache-other-2)"],
    ["k4v4", "var(--cache-k4v4)"],
  ]);
  expect(qualityPoints(report).map(({ colour }) => colour)).toEqual(bars.map(({ colour }) => colour));
  const css = readFileSync(join(repository, "templates", "report", "colours.css"), "utf8");
  for (const { colour } of bars) {
    // Light and dark.
    expect(css.split(`${colour.slice(4, -1)}:`)).toHaveLength(3);
  }
});
