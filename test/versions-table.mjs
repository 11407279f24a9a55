// What pytest's XML says of each test, and the table of releases against tests.
import { DOMParser } from "@xmldom/xmldom";

/** Counts by test, its parameters together: { "test_logits::test_x": { passed, failed, skipped } }. */
export function readOutcomes(xml) {
  const tests = {};
  const cases = new DOMParser().parseFromString(xml, "text/xml").getElementsByTagName("testcase");
  for (const node of Array.from(cases)) {
    const file = node.getAttribute("classname").split(".").at(-1);
    const name = `${file}::${node.getAttribute("name").split("[")[0]}`;
    tests[name] ??= { passed: 0, failed: 0, skipped: 0 };
    const has = (tag) => node.getElementsByTagName(tag).length > 0;
    if (has("failure") || has("error")) tests[name].failed++;
    else if (has("skipped")) tests[name].skipped++;
    else tests[name].passed++;
  }
  return tests;
}

function cell(run, name) {
  if (run.error !== undefined) return "no run";
  const test = run.tests[name];
  if (test === undefined) return "-";
  const { passed, failed, skipped } = test;
  if (failed > 0) return `FAIL ${failed}/${passed + failed}`;
  return passed > 0 ? `${passed}${skipped > 0 ? ` (${skipped} skipped)` : ""}` : "skipped";
}

/** Rows are tests, columns releases; a number is how many of a test's cases passed. Why a release did not run follows. */
export function renderTable(runs) {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.tests)))].sort();
  const rows = [["test", ...runs.map((run) => run.release)]];
  for (const name of names) rows.push([name, ...runs.map((run) => cell(run, name))]);
  rows.push(["seconds", ...runs.map((run) => String(run.seconds))]);
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const lines = rows.map((row) =>
    row
      .map((text, column) => text.padEnd(widths[column]))
      .join("  ")
      .trimEnd(),
  );
  const reasons = runs.filter((run) => run.error !== undefined).map((run) => `${run.release}: ${run.error}`);
  return [...lines, ...reasons].join("\n");
}

const sum = ({ tests }, outcome) => Object.values(tests).reduce((total, test) => total + test[outcome], 0);

/** Whether a release's tests ran, and none failed. */
export function isGreen(run) {
  return run.error === undefined && sum(run, "passed") > 0 && sum(run, "failed") === 0;
}

const isWhole = ({ pytest, error }) => pytest.join(" ") === "test/engine" && error === undefined;

/** What a file keeps of a release after a run: a part that ran after the whole replaces its tests there, and is named. */
export function merged(before, run) {
  if (before === undefined || !isWhole(before) || isWhole(run) || run.error !== undefined) return run;
  const again = [...new Set([...(before.again ?? []), run.pytest.join(" ")])];
  return { ...before, tests: { ...before.tests, ...run.tests }, again };
}

/** The row of README's table that says what a run was. */
export function readmeRow(run) {
  const what = isWhole(run) ? "all engine tests" : `\`${run.pytest.join(" ")}\``;
  const [passed, failed, skipped] = ["passed", "failed", "skipped"].map((outcome) => sum(run, outcome));
  const counts = [`${passed} passed`, ...(failed > 0 ? [`${failed} FAILED`] : []), `${skipped} skipped`];
  if (run.again !== undefined) counts.push(`\`${run.again.join("`, `")}\` in a later run`);
  const { torch, python } = run.packages;
  return `| ${run.release} | CPU build, torch ${torch}, Python ${python} | ${what}: ${counts.join(", ")} (${run.commit.slice(0, 10)}) |`;
}
