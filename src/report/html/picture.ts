/** One plot as an SVG file that stands by itself: light or dark as its reader has it, and nothing to fetch. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { draw } from "./draw.js";
import type { Plot } from "./plots.js";

export async function renderPicture({ spec }: Plot, templates: string): Promise<string> {
  const colours = await readFile(join(templates, "report", "colours.css"), "utf8");
  const svg = (await draw(spec)).text;
  const style = `<style>\n${colours}svg { background: var(--paper); font-family: system-ui, sans-serif; }\n</style>`;
  return svg.replace(/<svg[^>]*>/, (root) => `${root}${style}`);
}
