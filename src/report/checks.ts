/** The checks of `kivi doctor` as text. */
import type { CheckResult, DoctorReport, Status } from "../core/doctor/index.js";
import type { Output } from "../shared/output.js";

const INDENT = " ".repeat(6);

function line({ status, title, message, hint }: CheckResult, out: Output): string {
  const { colour } = out;
  const marks: Record<Status, string> = {
    ok: colour.green("ok   "),
    warn: colour.yellow("warn "),
    fail: colour.red("fail "),
    skip: colour.dim("skip "),
  };
  const text = `${title}: ${message}`.trimEnd().replaceAll("\n", `\n${INDENT}`);
  return [
    `${marks[status]} ${status === "skip" ? colour.dim(text) : text}`,
    ...(hint === undefined ? [] : [`${INDENT}${colour.cyan("next:")} ${hint}`]),
  ].join("\n");
}

export function renderChecks(report: DoctorReport, out: Output): string {
  const { ok, warn, fail, skip } = report.counts;
  return [
    out.colour.bold(report.venv),
    ...report.checks.map((check) => line(check, out)),
    `${ok} ok, ${warn} to look at, ${fail} failed, ${skip} skipped`,
  ].join("\n");
}
