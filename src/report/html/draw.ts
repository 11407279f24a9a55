import { logger, parse, type Spec, View, Warn } from "vega";
import { Html } from "./markup.js";

/** Draws a specification as SVG, without a browser. Vega escapes all text that it writes. */
export async function draw(spec: Spec): Promise<Html> {
  const view = new View(parse(spec), { renderer: "none", logger: logger(Warn) });
  const svg = await view.toSVG();
  view.finalize();
  // The page gives the size: the drawing is as wide as its column.
  return new Html(svg.replace(/ width="\d+(\.\d+)?" height="\d+(\.\d+)?"/, ""));
}
