import { describe, expect, it } from "vitest";
import { judge } from "../../src/core/gates/index.js";
import { renderTable } from "../../src/report/table.js";
import { gate } from "./gate.js";
import { cell, result } from "./results.js";

function bearing(users: number, broken: number | null) {
  const own = cell("k4v4");
  const measured = own.concurrency?.runs.filter(({ held }) => !held || users > 0) ?? [];
  const runs = measured.map((run) => ({ ...run, users: run.held ? users : (broken ?? users) }));
  return cell("k4v4", { concurrency: own.concurrency && { ...own.concurrency, users, broken, runs } });
}

describe("users within limits", () => {
  const both = (users: number, broken: number | null) => result([cell("bf16"), bearing(users, broken)]);

  it("are a figure of a gate, and over those of bf16", () => {
    const report = judge(both(4, 5), [gate("k4v4.users_ratio < 3"), gate("k4v4.users < 5")]);
    expect(report.passed.map(({ value }) => value)).toEqual([4]);
    expect(report.failed.map(({ value }) => value)).toEqual([4]);
    expect(judge(both(4, 5), [gate("k4v4.users_ttft_p99_ms > 100")]).failed).toHaveLength(1);
  });

  it("say where more would have been borne", () => {
    const [verdict] = judge(both(8, null), [gate("k4v4.users < 3")]).passed;
    expect(verdict?.message).toContain("k4v4 kept the limits with all that were tried");
    expect(renderTable(both(8, null))).toMatch(/^k4v4 .* 8 or more +8\.00x/m);
  });

  it("that kept no limit are none, and have no latency", () => {
    const none = bearing(0, 1);
    expect(judge(result([cell("bf16"), none]), [gate("k4v4.users_tpot_p99_ms > 1")]).missing).toHaveLength(1);
    expect(renderTable(result([cell("bf16"), none]))).toMatch(/^k4v4 .* 0 +0\.00x +- +-$/m);
  });
});
