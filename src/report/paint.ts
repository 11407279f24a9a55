import type { Output } from "../shared/output.js";
import { type Paint, PLAIN } from "./table.js";

/** Colours where standard output shows them. */
export function paint(out: Output): Paint {
  if (out.colour.level === 0) return PLAIN;
  return { title: out.colour.bold, bad: out.colour.red, quiet: out.colour.dim };
}
