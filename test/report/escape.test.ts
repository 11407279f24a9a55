import { DOMParser } from "@xmldom/xmldom";
import { parse } from "csv-parse/sync";
import { describe, expect, it } from "vitest";
import { temporaryFolder } from "../helpers/cli.js";
import { cell, result, save } from "./results.js";
import { report } from "./run.js";

const home = temporaryFolder();
const NAME = "</script><script>alert(1)</script> & <b>|`*_[x](y)@me \u001b[31m\u0000\uD800\u202E";
const REASON = "=HYPERLINK(1)\n::error::injected\r\n| a ]]> %0A, b";
save(
  home,
  "hostile.json",
  result({ model: NAME, cells: [cell("bf16"), cell("fp8", { status: "failed", reason: REASON })] }),
);

async function shown(format: string): Promise<string> {
  const { code, stdout } = await report(home, ["hostile.json", "--format", format]);
  expect(code).toBe(0);
  return stdout;
}

describe("names and reasons that mean something to the reader's program", () => {
  it("do not reach a terminal as commands", async () => {
    const text = await shown("table");
    expect(text.replaceAll("\n", "")).not.toMatch(/[\p{Cc}\p{Cf}]/u);
    expect(text).toContain("fp8    failed: =HYPERLINK(1) ::error::injected");
  });

  it("are text in Markdown", async () => {
    const text = await shown("markdown");
    expect(text).toContain(
      "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt; &amp; &lt;b&gt;\\|\\`\\*\\_\\[x\\](y)&#64;me",
    );
    expect(text).toContain("| fp8 | failed: =HYPERLINK(1) ::error::injected \\| a \\]\\]&gt; %0A, b |");
  });

  it("are one field of CSV, and no formula", async () => {
    const rows = parse(await shown("csv"), { columns: true }) as Record<string, string>[];
    expect(rows.find((row) => row.cache === "fp8")?.reason).toBe(`'${REASON}`);
    expect(rows[0]?.model).toBe(NAME.replace("\uD800", "\uFFFD"));
  });

  it("are text in XML", async () => {
    const xml = await shown("junit");
    const document = new DOMParser({
      // Warned of: characters that were replaced.
      onError: (level, message) => {
        if (level !== "warning") throw new Error(`${level}: ${message}`);
      },
    }).parseFromString(xml, "text/xml");
    expect(document.getElementsByTagName("script")).toHaveLength(0);
    const [error] = [...document.getElementsByTagName("error")];
    expect(error?.getAttribute("message")).toBe("=HYPERLINK(1) ::error::injected | a ]]> %0A, b");
    // biome-ignore lint/suspicious/noControlCharactersInRegex: XML 1.0 has none of these.
    expect(xml).not.toMatch(/[\u0000-\u0008\u000B\u000C\u000E-\u001F\uFFFE\uFFFF]/);
  });

  it("stay inside their annotation", async () => {
    const lines = (await shown("github")).trimEnd().split("\n");
    expect(lines).toEqual([
      "::error title=kivi bench%3A fp8 failed::=HYPERLINK(1) ::error::injected | a ]]> %250A, b",
    ]);
  });

  it("are text in HTML", async () => {
    const page = await shown("html");
    expect(page).toContain("&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt; &amp; &lt;b&gt;");
    expect(page.match(/<script/g)).toHaveLength(1);
    expect(page).not.toContain("<b>");
  });
});
