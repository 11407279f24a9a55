/** The frame of a self-contained page: the browser itself is told to fetch nothing. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Html, html } from "./markup.js";

/** A page of which only `templates/report` is read from disk; `scripts` is the policy of the one script it may run. */
export async function renderDocument(
  templates: string,
  title: string,
  body: Html,
  scripts?: string,
): Promise<string> {
  const style = await Promise.all(
    ["colours.css", "page.css"].map((name) => readFile(join(templates, "report", name), "utf8")),
  );
  const policy = `default-src 'none'; style-src 'unsafe-inline'${scripts === undefined ? "" : `; script-src ${scripts}`}`;
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${title}</title>
<style>
${new Html(style.join("\n"))}</style>
</head>
<body>
${body}
</body>
</html>`.text;
}
