/** The kernel benchmark's result: what it measured as tables, and the same as text, Markdown, CSV and HTML. */
import type { KernelsResult, Measurement } from "../core/kernels/result.js";
import { usageError } from "../shared/errors.js";
import { oneLine } from "../shared/one-line.js";
import { csvField, escapeMarkdown } from "./escape.js";
import { figure } from "./format.js";
import type { Format, View } from "./formats.js";
import { layOut } from "./grid.js";
import { renderDocument } from "./html/document.js";
import { type Html, html } from "./html/markup.js";
import { type Paint, PLAIN } from "./table.js";

interface Table {
  readonly title: string;
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

type Timed = Extract<Measurement, { status: "ok" }>;

/** Batch x context, and the query heads of a KV head. */
function loadOf({ batch, context, ratio }: Measurement): string {
  return `${batch}x${context} gqa ${ratio}`;
}

function loads({ measurements }: KernelsResult): string[] {
  const order = [...measurements].sort(
    (a, b) => a.ratio - b.ratio || a.context - b.context || a.batch - b.batch,
  );
  return [...new Set(order.map(loadOf))];
}

/** The baseline's time over this one's; undefined where one of them is not there. */
function speed(timed: Timed, { measurements, settings }: KernelsResult): number | undefined {
  const base = measurements.find(
    (one) => one.implementation === settings.baseline && loadOf(one) === loadOf(timed),
  );
  return base?.status === "ok" ? base.microseconds / timed.microseconds : undefined;
}

function tables(result: KernelsResult): Table[] {
  const names = result.implementations
    .filter(({ name }) => result.measurements.some((one) => one.implementation === name))
    .map(({ name }) => name);
  const head = ["load", ...names];
  const of = (title: string, text: (timed: Timed) => string | undefined): Table => ({
    title,
    head,
    rows: loads(result).map((load) => [
      load,
      ...names.map((name) => {
        const one = result.measurements.find(
          (other) => other.implementation === name && loadOf(other) === load,
        );
        if (one === undefined) return "-";
        return one.status === "ok" ? (text(one) ?? "-") : one.status;
      }),
    ]),
  });
  if (names.length === 0) return [];
  return [
    of("Microseconds, medians", ({ microseconds }) => figure(microseconds)),
    of("Bytes of the cache a second, of the copy bandwidth", ({ copyShare }) =>
      copyShare === null ? undefined : `${Math.round(100 * copyShare)} %`,
    ),
    of(`Speed relative to ${result.settings.baseline}`, (timed) => {
      const found = speed(timed, result);
      return found === undefined ? undefined : `${found.toFixed(2)}x`;
    }),
  ];
}

/** What a reader must know to believe the figures. */
function about(result: KernelsResult): string[] {
  const { machine, copy, settings } = result;
  if (machine === null) return [`kivi ${result.tool.version}`];
  const rate = copy === null ? [] : [`copy bandwidth ${(copy.bytesPerSecond / 1e12).toFixed(2)} TB/s`];
  return [
    machine.device,
    `vLLM ${machine.vllm ?? "not installed"}, torch ${machine.torch}, triton ${machine.triton ?? "not installed"}, ` +
      `vllm-kivi ${machine.plugin ?? "not installed"}, kernels ${machine.kernels ?? "not measured"}, kivi ${result.tool.version}`,
    [
      `${settings.kvHeads} KV heads of ${settings.headSize}`,
      "cold L2 cache, CUDA graphs",
      ...rate,
      ...(copy === null ? [] : [`an empty graph takes ${copy.floorUs.toFixed(1)} us`]),
    ].join(", "),
  ];
}

/** Why figures are missing: one line for each implementation and reason. */
function troubles(result: KernelsResult): string[] {
  const lines = result.implementations.flatMap(({ name, status, reason }) =>
    reason === undefined ? [] : [`${name} ${status}: ${reason}`],
  );
  const shapes = new Map<string, { first: Measurement & { reason: string }; count: number }>();
  for (const one of result.measurements) {
    if (one.status === "ok") continue;
    // The sizes of shapes that did not fit are many reasons for one thing.
    const key = `${one.implementation} ${one.status} ${one.reason.replace(/[\d.]+/g, "")}`;
    const known = shapes.get(key);
    if (known === undefined) shapes.set(key, { first: one, count: 1 });
    else known.count += 1;
  }
  for (const { first, count } of shapes.values()) {
    const more = count === 1 ? "" : ` and ${count - 1} more`;
    lines.push(`${first.implementation} ${first.status} at ${loadOf(first)}${more}: ${first.reason}`);
  }
  return [
    ...lines.map(oneLine),
    ...(result.complete ? [] : ["Incomplete: the run is not finished or was interrupted."]),
  ];
}

export function renderKernels(result: KernelsResult, paint: Paint = PLAIN): string {
  const [title = "", ...small] = about(result).map(oneLine);
  return [
    paint.title(title),
    ...small.map(paint.quiet),
    ...tables(result).flatMap(({ title: name, head, rows }) => {
      const [first = "", ...body] = layOut({ head, rows: rows.map((cells) => ({ cells })) });
      return ["", name, paint.quiet(first), ...body];
    }),
    "",
    ...troubles(result).map(paint.bad),
  ]
    .join("\n")
    .trimEnd();
}

function renderMarkdown(result: KernelsResult): string {
  const row = (cells: readonly string[]): string => `| ${cells.map(escapeMarkdown).join(" | ")} |`;
  const list = (lines: readonly string[]): string[] =>
    lines.length === 0 ? [] : [...lines.map((line) => `- ${escapeMarkdown(line)}`), ""];
  return [
    "## Attention kernels",
    "",
    ...list(about(result)),
    ...tables(result).flatMap(({ title, head, rows }) => [
      `**${escapeMarkdown(title)}**`,
      "",
      row(head),
      `| ${head.map((_, column) => (column === 0 ? "---" : "---:")).join(" | ")} |`,
      ...rows.map(row),
      "",
    ]),
    ...list(troubles(result)),
  ]
    .join("\n")
    .trimEnd();
}

/** One line for each figure, and for each that is missing. */
function renderCsv(result: KernelsResult): string {
  const head = [
    ...[
      "device",
      "vllm",
      "kernels",
      "started",
      "implementation",
      "batch",
      "context",
      "gqa",
      "status",
      "reason",
    ],
    ...["microseconds", "fastest", "slowest", "bytes", "bytes_per_second", "copy_share", "speed_to_baseline"],
  ];
  const { machine } = result;
  const start = [machine?.device ?? null, machine?.vllm ?? null, machine?.kernels ?? null, result.createdAt];
  const rows = result.measurements.map((one) => {
    const load = [one.implementation, one.batch, one.context, one.ratio, one.status];
    if (one.status !== "ok") return [...start, ...load, one.reason, ...Array(7).fill(null)];
    const { microseconds, samplesUs, bytes, bytesPerSecond, copyShare } = one;
    const range = [Math.min(...samplesUs), Math.max(...samplesUs)];
    const figures = [microseconds, ...range, bytes, bytesPerSecond, copyShare, speed(one, result) ?? null];
    return [...start, ...load, null, ...figures];
  });
  return [head, ...rows].map((row) => row.map(csvField).join(",")).join("\n");
}

async function renderHtml(result: KernelsResult, templates: string): Promise<string> {
  const list = (lines: readonly string[], style: string): Html =>
    html`${lines.map((line) => html`<p class="${style}">${oneLine(line)}</p>`)}`;
  const body = html`<h1>Attention kernels</h1>
${list(about(result), "quiet")}
${tables(result).map(
  ({ title, head, rows }) => html`<h2>${title}</h2>
<div class="scroll" role="region" aria-label="${title}" tabindex="0"><table class="cells">
<thead><tr>${head.map((name) => html`<th scope="col" class="figure">${name}</th>`)}</tr></thead>
<tbody>
${rows.map(
  (cells) => html`<tr>${cells.map((text) => html`<td class="figure">${text}</td>`)}</tr>
`,
)}</tbody></table></div>
`,
)}
${list(troubles(result), "bad")}
<footer>Measured by kivi bench kernels, ${result.updatedAt}; rendered by kivi report.</footer>`;
  return renderDocument(templates, "Attention kernels", body);
}

/** The result in one of the formats of `kivi report`. */
export async function renderKernelsAs(format: Format, result: KernelsResult, view: View): Promise<string> {
  switch (format) {
    case "table":
      return renderKernels(result, view.paint);
    case "markdown":
      return renderMarkdown(result);
    case "csv":
      return renderCsv(result);
    case "html":
      return renderHtml(result, view.templates);
    case "json":
      return JSON.stringify(result, null, 2);
    default:
      throw usageError(
        "format-unavailable",
        `A result of kivi bench kernels has no ${format} form.`,
        "Choose table, markdown, csv, html or json.",
      );
  }
}
