/** HTML that is safe by construction: `html` escapes all that is put in, except what `html` itself made. */
import { escapeMarkup } from "../escape.js";

export class Html {
  constructor(readonly text: string) {}
}

type Part = string | number | Html | readonly Html[];

function show(part: Part): string {
  if (part instanceof Html) return part.text;
  if (typeof part === "object") return part.map((one) => one.text).join("");
  return escapeMarkup(String(part));
}

export function html(strings: TemplateStringsArray, ...parts: readonly Part[]): Html {
  return new Html(strings.reduce((text, next, index) => text + show(parts[index - 1] ?? "") + next));
}

export const NOTHING = html``;
