/** The plots as Vega specifications. Colours are CSS variables of the page, so that one drawing serves light and dark. */
import type { Axis, Legend, Mark, Scale, Spec } from "vega";
import { type Bar, type Point, paretoFront, type Serving, type Speed } from "./data.js";

/** About the width of a phone, so that letters are shown there in their own size. */
const WIDTH = 350;
const HEIGHT = 270;
const BAR_STEP = 30;
const LONG_NAME = 8;

const INK = "var(--ink)";
const QUIET = "var(--quiet)";
const RULE = "var(--rule)";

const CONFIG: Spec["config"] = {
  axis: {
    labelFont: "inherit",
    titleFont: "inherit",
    labelFontSize: 12,
    titleFontSize: 12,
    titleFontWeight: "normal",
    labelColor: INK,
    titleColor: QUIET,
    domainColor: QUIET,
    tickColor: QUIET,
    gridColor: RULE,
    titlePadding: 8,
  },
  legend: {
    labelFont: "inherit",
    titleFont: "inherit",
    labelFontSize: 12,
    labelColor: INK,
    orient: "top",
    symbolSize: 90,
    columnPadding: 10,
  },
  text: { font: "inherit", fontSize: 12, fill: INK },
};

function colours(marks: readonly Pick<Point, "cache" | "colour">[]): Scale {
  const byCache = new Map(marks.map(({ cache, colour }) => [cache, colour]));
  return { name: "colour", type: "ordinal", domain: [...byCache.keys()], range: [...byCache.values()] };
}

const base = (
  description: string,
): Pick<Spec, "$schema" | "width" | "autosize" | "padding" | "config" | "description"> => ({
  $schema: "https://vega.github.io/schema/vega/v6.json",
  description,
  width: WIDTH,
  autosize: { type: "fit", contains: "padding" },
  padding: 4,
  config: CONFIG,
});

/** A bar for each cache with its figure at the end, so no axis of values is needed. Long names stand above their bars. */
export function barSpec(bars: readonly Bar[], description: string): Spec {
  const above = bars.some((bar) => bar.name.length > LONG_NAME);
  // Part of a step at which the bar begins.
  const top = above ? 0.5 : 0;
  return {
    ...base(description),
    height: bars.length * (above ? 1.4 : 1) * BAR_STEP,
    data: [{ name: "bars", values: [...bars] }],
    scales: [
      colours(bars),
      { name: "name", type: "band", domain: bars.map((bar) => bar.name), range: "height", padding: 0.25 },
      // The rest of the width is for the figure after the longest bar.
      {
        name: "value",
        type: "linear",
        domain: [0, { signal: "extent(pluck(data('bars'), 'value'))[1]" }],
        range: [0, { signal: "width - 120" }],
      },
    ],
    axes: [{ orient: "left", scale: "name", ticks: false, domain: false, labels: !above, labelPadding: 6 }],
    marks: [
      {
        type: "rect",
        from: { data: "bars" },
        encode: {
          enter: {
            y: { scale: "name", field: "name", band: top },
            height: { scale: "name", band: 1 - top },
            x: { value: 0 },
            x2: { scale: "value", field: "value" },
            cornerRadius: { value: 2 },
            fill: { scale: "colour", field: "cache" },
          },
        },
      },
      {
        type: "text",
        from: { data: "bars" },
        encode: {
          enter: {
            y: { scale: "name", field: "name", band: (1 + top) / 2 },
            x: { scale: "value", field: "value", offset: 6 },
            baseline: { value: "middle" },
            text: { field: "text" },
          },
        },
      },
      ...(above ? [namesAbove] : []),
    ],
  };
}

const namesAbove: Mark = {
  type: "text",
  from: { data: "bars" },
  encode: {
    enter: {
      y: { scale: "name", field: "name", band: 0.2 },
      baseline: { value: "middle" },
      text: { field: "name" },
    },
  },
};

/** Colours stand for caches; where there are several results, shapes and dashes stand for those. */
function series(points: readonly Point[]): { scales: Scale[]; colourLegend: Legend; setLegends: Legend[] } {
  const sets = [...new Set(points.map((point) => point.set))];
  const shapes = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"];
  const dashes = [
    [1, 0],
    [6, 3],
    [2, 3],
    [8, 3, 2, 3],
    [12, 4],
    [1, 4],
  ];
  const scales: Scale[] = [
    colours(points),
    { name: "shape", type: "ordinal", domain: sets, range: shapes },
    { name: "dash", type: "ordinal", domain: sets, range: dashes },
  ];
  const shapeLegend: Legend = {
    shape: "shape",
    symbolStrokeColor: INK,
    symbolFillColor: "transparent",
    orient: "bottom",
    columns: 1,
    labelLimit: 260,
  };
  const long = points.some((point) => point.cache.length > LONG_NAME);
  const colourLegend: Legend = { fill: "colour", columns: long ? 2 : 3, labelLimit: WIDTH };
  return { scales, colourLegend, setLegends: sets.length > 1 ? [shapeLegend] : [] };
}

function symbols(xScale: string): Mark {
  return {
    type: "symbol",
    from: { data: "points" },
    encode: {
      enter: {
        x: { scale: xScale, field: "x" },
        y: { scale: "y", field: "y" },
        size: { value: 75 },
        shape: { scale: "shape", field: "set" },
        fill: { scale: "colour", field: "cache" },
        description: { field: "text" },
      },
    },
  };
}

/** Height is the figure that is compared, from zero. */
const FIGURE_SCALE = {
  name: "y",
  type: "linear",
  range: "height",
  domain: { data: "points", field: "y" },
  zero: true,
  nice: true,
} satisfies Scale;

const figureAxis = (title: string): Axis => ({
  orient: "left",
  scale: "y",
  title,
  grid: true,
  tickCount: 5,
  domain: false,
  ticks: false,
});

/** Rate against batch: a curve for each cache and result. */
export function curveSpec(speed: Speed, description: string): Spec {
  return linesSpec(speed.points, description, {
    unit: "tokens/s",
    scale: {
      name: "x",
      type: "log",
      base: 2,
      range: "width",
      domain: { data: "points", field: "x" },
      padding: 12,
    },
    axis: {
      orient: "bottom",
      scale: "x",
      title: "sequences in the batch",
      values: [...speed.batches],
      format: "d",
    } as Axis,
  });
}

/** A figure of a server against the rate of requests. */
export function servingSpec({ points, rates, unit }: Serving, description: string): Spec {
  return linesSpec(points, description, {
    unit,
    scale: {
      name: "x",
      type: "linear",
      range: "width",
      domain: [0, rates.length - 1],
      padding: 12,
      zero: false,
    },
    axis: {
      orient: "bottom",
      scale: "x",
      title: "requests/s that arrive (inf: all at once)",
      values: rates.map((_, index) => index),
      encode: { labels: { update: { text: { signal: `${JSON.stringify(rates)}[datum.value]` } } } },
    },
  });
}

function linesSpec(
  points: readonly Point[],
  description: string,
  x: { readonly unit: string; readonly scale: Scale; readonly axis: Axis },
): Spec {
  const { scales, colourLegend, setLegends } = series(points);
  return {
    ...base(description),
    height: HEIGHT,
    data: [{ name: "points", values: [...points] }],
    scales: [...scales, x.scale, FIGURE_SCALE],
    axes: [figureAxis(x.unit), x.axis],
    legends: [colourLegend, ...setLegends],
    marks: [
      {
        type: "group",
        from: { facet: { name: "line", data: "points", groupby: ["cache", "set"] } },
        marks: [
          {
            type: "line",
            from: { data: "line" },
            sort: { field: "datum.x" },
            encode: {
              enter: {
                x: { scale: "x", field: "x" },
                y: { scale: "y", field: "y" },
                stroke: { scale: "colour", field: "cache" },
                strokeDash: { scale: "dash", field: "set" },
                strokeWidth: { value: 2 },
              },
            },
          },
        ],
      },
      symbols("x"),
    ],
  };
}

/** Powers of two among the points, or the points themselves where they are too close to have one between them. */
function byteTicks(points: readonly Point[]): number[] {
  const bytes = points.map((point) => point.x);
  const least = Math.min(...bytes) / 1.1;
  const most = Math.max(...bytes) * 1.1;
  const ticks: number[] = [];
  for (let tick = 2 ** Math.ceil(Math.log2(least)); tick <= most; tick *= 2) ticks.push(tick);
  return ticks.length > 0 ? ticks : [...new Set(bytes)];
}

/** Quality against bytes: left and low is best, and the line joins what no other cache beats in both. */
export function qualitySpec(points: readonly Point[], description: string): Spec {
  const { scales, setLegends } = series(points);
  // A cache is named once, at its highest point, above and below in turn: neighbours are close.
  const highest = new Map<string, Point>();
  for (const point of points) {
    if (point.y >= (highest.get(point.cache)?.y ?? Number.NEGATIVE_INFINITY)) highest.set(point.cache, point);
  }
  const names = [...highest.values()]
    .sort((a, b) => a.x - b.x)
    .map((point, index) => ({ ...point, offset: index % 2 === 0 ? -9 : 18 }));
  return {
    ...base(description),
    height: HEIGHT,
    data: [
      { name: "points", values: [...points] },
      { name: "front", values: paretoFront(points) },
      { name: "names", values: names },
    ],
    scales: [
      ...scales,
      // Each halving of the bytes is the same step.
      {
        name: "x",
        type: "log",
        base: 2,
        range: "width",
        domain: { data: "points", field: "x" },
        padding: 22,
      },
      { ...FIGURE_SCALE, padding: 20 },
    ],
    axes: [
      figureAxis("perplexity over bf16 (%)"),
      {
        orient: "bottom",
        scale: "x",
        title: "bytes per token",
        grid: true,
        format: ",d",
        values: byteTicks(points),
      },
    ],
    legends: setLegends,
    marks: [
      {
        type: "line",
        from: { data: "front" },
        encode: {
          enter: {
            x: { scale: "x", field: "x" },
            y: { scale: "y", field: "y" },
            interpolate: { value: "step-after" },
            stroke: { value: QUIET },
            strokeWidth: { value: 1.5 },
            strokeDash: { value: [3, 3] },
          },
        },
      },
      symbols("x"),
      {
        type: "text",
        from: { data: "names" },
        encode: {
          enter: {
            x: { scale: "x", field: "x" },
            y: { scale: "y", field: "y", offset: { field: "offset" } },
            align: { value: "center" },
            text: { field: "cache" },
          },
        },
      },
    ],
  };
}
