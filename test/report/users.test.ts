import { describe, expect, it } from "vitest";
import { draw } from "../../src/report/html/draw.js";
import { plots } from "../../src/report/html/plots.js";
import { renderTable } from "../../src/report/table.js";
import { cell, result } from "../gates/results.js";

function bearing(users: number, broken: number | null) {
  const own = cell("k4v4");
  return cell("k4v4", { concurrency: own.concurrency && { ...own.concurrency, users, broken } });
}

describe("users within limits", () => {
  const measured = result([cell("bf16"), bearing(8, null)]);

  it("are bars of their own on the page", async () => {
    const report = { sets: [{ name: "", path: "", result: measured }], unlike: [], changed: [] };
    const plot = plots(report).find(({ title }) => title === "Users within limits");
    if (plot === undefined) throw new Error("no plot");
    expect((await draw(plot.spec)).text).toContain(">8 or more (8.00x)<");
    const without = result([cell("fp8", { concurrency: undefined })]);
    const titles = plots({ ...report, sets: [{ name: "", path: "", result: without }] }).map(
      ({ title }) => title,
    );
    expect(titles).not.toContain("Users within limits");
  });

  it("say in one line what was asked of the server", () => {
    expect(renderTable(measured)).toContain(
      "users: 3 requests of 128 + 16 tokens for each of up to 8 users, limits ttft 3000 ms, tpot 60 ms at the 99th percentile, seed 0",
    );
  });
});
