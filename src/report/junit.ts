/** JUnit XML: a suite for each result, a test case for each cache that was planned, and one for a run that did not end. */
import type { Cell } from "../core/bench/result.js";
import type { Report, ResultSet } from "../core/report/index.js";
import { oneLine } from "../shared/one-line.js";
import { environment, UNLIKE } from "./about.js";
import { escapeMarkup } from "./escape.js";
import { findings } from "./findings.js";
import { type Metric, standing, tableSections } from "./metrics.js";
import { baseline, notMeasured } from "./rows.js";

type Verdict = "passed" | "skipped" | "failure" | "error";

function verdict(cell: Cell): Verdict {
  if (cell.status === "ok") return "passed";
  if (cell.status === "failed") return "error";
  return cell.optional ? "skipped" : "failure";
}

interface Case {
  readonly name: string;
  readonly seconds: number;
  readonly verdict: Verdict;
  readonly message: string;
  readonly output: readonly string[];
}

function cases({ result }: ResultSet, metrics: readonly Metric[]): Case[] {
  const base = baseline(result);
  return [
    ...result.cells.map((cell) => ({
      name: cell.cache,
      seconds: cell.seconds,
      verdict: verdict(cell),
      message: cell.reason ?? "no reason given",
      output: metrics.flatMap((metric) => {
        const reading = cell.status === "ok" ? metric.read(cell) : undefined;
        return reading === undefined
          ? []
          : [`${metric.title}: ${reading.text} ${standing(metric, cell, base)}`.trimEnd()];
      }),
    })),
    ...notMeasured(result).map((name) => ({
      name,
      seconds: 0,
      verdict: "error" as const,
      message: "It was planned and has no cell.",
      output: [],
    })),
    ...(result.complete
      ? []
      : [
          {
            name: "whole run",
            seconds: 0,
            verdict: "error" as const,
            message: "The run is not finished or was interrupted.",
            output: [],
          },
        ]),
  ];
}

function element(
  name: string,
  attributes: Record<string, string | number>,
  inside: readonly string[],
): string[] {
  const words = Object.entries(attributes).map(
    ([key, value]) => ` ${key}="${escapeMarkup(oneLine(String(value)))}"`,
  );
  const start = `<${name}${words.join("")}`;
  if (inside.length === 0) return [`${start}/>`];
  return [`${start}>`, ...inside.map((line) => `  ${line}`), `</${name}>`];
}

function count(all: readonly Case[]): Record<string, string | number> {
  const of = (kind: Verdict) => all.filter((one) => one.verdict === kind).length;
  return {
    tests: all.length,
    failures: of("failure"),
    errors: of("error"),
    skipped: of("skipped"),
    time: all.reduce((sum, one) => sum + one.seconds, 0).toFixed(3),
  };
}

function testCase(one: Case, set: ResultSet): string[] {
  const { name, seconds, message, output } = one;
  return element("testcase", { name, classname: `kivi-bench.${set.name}`, time: seconds.toFixed(3) }, [
    ...(one.verdict === "passed" ? [] : element(one.verdict, { message }, [])),
    ...(output.length === 0 ? [] : element("system-out", {}, output.map(escapeMarkup))),
  ]);
}

export function renderJunit(report: Report): string {
  const { sets } = report;
  const metrics = tableSections(sets.map((set) => set.result)).flat();
  const facts = environment(report);
  const warnings = findings(report).filter((finding) => finding.level === "warning");
  const suites = sets.map((set, index) => {
    const all = cases(set, metrics);
    const properties = [
      { name: "complete", value: set.result.complete ? "yes" : "no" },
      ...(report.unlike.length === 0 ? [] : [{ name: "comparable", value: `no. ${UNLIKE}` }]),
      ...facts.map(({ name, values }) => ({ name, value: values[index] ?? "" })),
    ];
    const told = warnings
      .filter((finding) => finding.set === set)
      .map(({ title, message }) => escapeMarkup(`${title}: ${message}`));
    return {
      all,
      lines: element(
        "testsuite",
        { name: set.name, ...count(all), timestamp: set.result.createdAt, id: index },
        [
          ...element(
            "properties",
            {},
            properties.flatMap((property) => element("property", property, [])),
          ),
          ...all.flatMap((one) => testCase(one, set)),
          ...(told.length === 0 ? [] : element("system-err", {}, told)),
        ],
      ),
    };
  });
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    ...element(
      "testsuites",
      { name: "kivi bench", ...count(suites.flatMap((suite) => suite.all)) },
      suites.flatMap((suite) => suite.lines),
    ),
  ].join("\n");
}
