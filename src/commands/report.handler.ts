import { appendFile } from "node:fs/promises";
import { resolve } from "node:path";
import { type KernelsResult, readKernels } from "../core/kernels/result.js";
import { loadReport, type Report } from "../core/report/index.js";
import { reportDocument } from "../report/document.js";
import { bytes } from "../report/format.js";
import { type Format, renderAs, type View } from "../report/formats.js";
import { renderKernelsAs } from "../report/kernels.js";
import { paint } from "../report/paint.js";
import { writeFileAtomic } from "../shared/atomic.js";
import type { Handler, Outcome } from "../shared/command.js";
import type { Context } from "../shared/context.js";
import { environmentError, messageOf, usageError } from "../shared/errors.js";
import type { ReportInput } from "./report.schema.js";

export const handler: Handler<ReportInput> = async (input, ctx) => {
  const { out } = ctx;
  const format = input.format ?? (out.json ? "json" : "table");
  if (out.json && format !== "json" && input.output === undefined) {
    throw usageError(
      "conflicting-flags",
      `--json prints one JSON document, so the ${format} report has nowhere to go.`,
      "Name a file for it with --output, or leave one of the flags out.",
    );
  }
  const kernels = await loadKernels(input.files, ctx);
  if (kernels !== undefined) return kernelsReport(kernels, format, input.output, ctx);
  const report = await loadReport(input.files, { cwd: ctx.cwd, force: input.force });
  const view: View = { templates: ctx.paths.templates };
  if (format === "github") await appendSummary(ctx, report, view);
  if (input.output !== undefined) {
    const path = resolve(ctx.cwd, input.output);
    const text = `${await renderAs(format, report, view)}\n`;
    await write(path, text);
    const written = { path, format, bytes: Buffer.byteLength(text) };
    return {
      result: { ...reportDocument(report), written },
      render: () => out.info(`Wrote ${path} (${format}, ${bytes(written.bytes)})`),
    };
  }
  const terminal = { ...view, paint: paint(out), columns: out.columns };
  const text = out.json ? "" : await renderAs(format, report, terminal);
  return { result: reportDocument(report), render: () => out.result(text) };
};

/** A result of the kernel benchmark, which stands by itself; undefined where there is none among the files. */
async function loadKernels(files: readonly string[], { cwd }: Context): Promise<KernelsResult | undefined> {
  const results = await Promise.all(files.map((file) => readKernels(resolve(cwd, file))));
  const found = results.find((result) => result !== undefined);
  if (found === undefined || files.length === 1) return found;
  throw usageError(
    "kernels-alone",
    "A result of kivi bench kernels cannot stand beside other results.",
    "Report each file by itself.",
  );
}

async function kernelsReport(
  kernels: KernelsResult,
  format: Format,
  output: string | undefined,
  { cwd, out, paths }: Context,
): Promise<Outcome> {
  const view: View = { templates: paths.templates };
  if (output === undefined) {
    const text = out.json ? "" : await renderKernelsAs(format, kernels, { ...view, paint: paint(out) });
    return { result: kernels, render: () => out.result(text) };
  }
  const path = resolve(cwd, output);
  const text = `${await renderKernelsAs(format, kernels, view)}\n`;
  await write(path, text);
  const written = { path, format, bytes: Buffer.byteLength(text) };
  return {
    result: { ...kernels, written },
    render: () => out.info(`Wrote ${path} (${format}, ${bytes(written.bytes)})`),
  };
}

async function write(path: string, text: string): Promise<void> {
  try {
    await writeFileAtomic(path, text);
  } catch (error) {
    throw environmentError(
      "report-unwritable",
      `The report cannot be written to ${path}: ${messageOf(error)}`,
      "Name a file in a folder you can write to with --output.",
      { cause: error },
    );
  }
}

/** GitHub shows what jobs append to this file on the page of the run; outside of GitHub there is none. */
async function appendSummary({ env, out }: Context, report: Report, view: View): Promise<void> {
  const path = env.GITHUB_STEP_SUMMARY;
  if (path === undefined || path === "") {
    out.warn("GITHUB_STEP_SUMMARY is not set: no job summary is written.");
    return;
  }
  try {
    await appendFile(path, `${await renderAs("markdown", report, view)}\n`);
  } catch (error) {
    throw environmentError(
      "summary-unwritable",
      `The job summary cannot be appended to ${path} (GITHUB_STEP_SUMMARY): ${messageOf(error)}`,
      "Check that the variable is the one that GitHub Actions sets.",
      { cause: error },
    );
  }
}
