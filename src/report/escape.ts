/** Names and reasons come from files that anyone may have written: one function for each place they are put into. */

import { oneLine } from "../shared/one-line.js";

export function escapeMarkdown(text: string): string {
  const entities = oneLine(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  // "@" would call a person, "#" link to an issue, "|" end a table's cell.
  return entities.replace(/[\\`*_[\]#|~@$]/g, (mark) =>
    mark === "@" || mark === "#" ? `&#${mark.charCodeAt(0)};` : `\\${mark}`,
  );
}

/** Text and attributes of HTML and of XML alike; what XML 1.0 has no place for becomes U+FFFD. */
export function escapeMarkup(text: string): string {
  const names: Record<string, string> = { "&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "#39" };
  return text
    .replace(/[^\t\n\r\u0020-\uD7FF\uE000-\uFFFD\u{10000}-\u{10FFFF}]/gu, "\uFFFD")
    .replace(/[&<>"']/g, (mark) => `&${names[mark]};`);
}

/** A field after RFC 4180; a spreadsheet would run text that starts like a formula, so such text gets a quote before it. */
export function csvField(value: string | number | boolean | null): string {
  if (value === null) return "";
  if (typeof value !== "string") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The message of a workflow command of GitHub Actions. */
export function annotation(text: string): string {
  return oneLine(text).replaceAll("%", "%25");
}

/** A property of a workflow command. */
export function annotationProperty(text: string): string {
  return annotation(text).replaceAll(":", "%3A").replaceAll(",", "%2C");
}
