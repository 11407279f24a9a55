/// <reference lib="dom" />
// Functions given to `evaluate` run in the page; the build of src/ alone still refuses names of the DOM.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { serveOf } from "../bench/fixtures.js";
import { temporaryFolder } from "../helpers/cli.js";
import { ALL, cell, result, save, troubled } from "./results.js";
import { report } from "./run.js";

/** The browser that the machine has; the page is tested in a real one or not at all. */
function findChromium(): string | undefined {
  const named = process.env.KIVI_TEST_CHROMIUM;
  const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
  return named ?? names.find((name) => spawnSync(name, ["--version"]).status === 0);
}

function pathOf(name: string): string {
  return name.includes("/") ? name : spawnSync("which", [name], { encoding: "utf8" }).stdout.trim();
}

const found = findChromium();
const title = found === undefined ? "the page (NOT TESTED: no Chromium found)" : "the page";

describe.skipIf(found === undefined)(title, () => {
  const home = temporaryFolder();
  const long = "a long name that somebody chose for a result & <b>bold";
  let browser: Browser;

  beforeAll(async () => {
    save(home, "one.json", result());
    save(home, "two.json", result({ tool: { name: "kivi", version: "0.2.0" } }));
    save(home, `${long}.json`, troubled());
    save(
      home,
      "hostile.json",
      result({ model: "</script><script>window.hit = 1</script><img src=x onerror='hit = 1'>" }),
    );
    save(
      home,
      "short.json",
      result({
        cells: ["bf16", "k4v4"].map((cache) => cell(cache as "bf16", {}, [{ batch: 16, context: 512 }])),
      }),
    );
    const int4 = cell("k4v4", {
      key: "int4",
      cache: "int4_per_token_head",
      cacheDtype: "int4_per_token_head",
    });
    save(home, "many.json", result({ cells: [...ALL.map((cache) => cell(cache)), int4] }));
    const servers = ["bf16", "k4v4"].map((cache) =>
      cell(cache as "bf16", { serve: serveOf(cache as "bf16") }, []),
    );
    save(home, "served.json", result({ cells: servers, suites: ["capacity", "perplexity", "serve"] }));
    browser = await chromium.launch({ executablePath: pathOf(found ?? ""), args: ["--no-sandbox"] });
  });
  afterAll(async () => browser?.close());

  interface Opened {
    readonly page: Page;
    readonly troubles: string[];
  }

  /** Opens a report from disk; whatever it logs, throws or asks the network for is trouble. */
  async function open(
    files: string[],
    width = 1280,
    colorScheme: "light" | "dark" = "light",
  ): Promise<Opened> {
    const output = join(home, `${files.length}-${files[0]}-${width}-${colorScheme}.html`);
    const { code, stderr } = await report(home, [...files, "--format", "html", "--output", output]);
    expect({ code, stderr }).toMatchObject({ code: 0 });
    const page = await browser.newPage({ viewport: { width, height: 800 }, colorScheme });
    const troubles: string[] = [];
    const url = pathToFileURL(output).href;
    page.on("console", (message) => troubles.push(`console: ${message.text()}`));
    page.on("pageerror", (error) => troubles.push(`error: ${error.message}`));
    page.on("request", (request) => {
      if (request.url() !== url) troubles.push(`request: ${request.url()}`);
    });
    await page.goto(url);
    return { page, troubles };
  }

  const captions = (page: Page) =>
    page.locator("figcaption").evaluateAll((all) => all.map((one) => one.firstChild?.textContent));

  it("opens from disk, asks for nothing, and draws each plot", async () => {
    const { page, troubles } = await open(["one.json"]);
    expect(await captions(page)).toEqual([
      "Tokens held",
      "Quality against bytes",
      "Decode throughput against batch",
      "Prefill throughput against batch",
    ]);
    const bars = page.locator("figure").nth(0).locator("svg .mark-rect path");
    const lengths = await bars.evaluateAll((all) =>
      all
        .filter((bar) => bar.getAttribute("fill")?.startsWith("var("))
        .map((bar) => bar.getBoundingClientRect().width),
    );
    expect(lengths).toHaveLength(5);
    // The tokens of bf16 and k2v2.
    expect((lengths[4] ?? 0) / (lengths[0] ?? 0)).toBeCloseTo(255_232 / 46_592, 1);
    for (const [plot, points] of [
      [1, 5],
      [2, 15],
      [3, 15],
    ] as const) {
      const marks = page.locator("figure").nth(plot).locator("svg .role-mark.mark-symbol path");
      expect(await marks.count()).toBe(points);
    }
    expect(await page.locator("figure").nth(2).locator("svg .mark-line path").count()).toBe(5);
    expect(troubles).toEqual([]);
  });

  it("has bars of speed where a load has one batch size, and no plot without data", async () => {
    const { page } = await open(["short.json"]);
    expect(await captions(page)).toEqual([
      "Tokens held",
      "Quality against bytes",
      "Decode throughput",
      "Prefill throughput",
    ]);
    save(home, "single.json", result({ cells: [cell("bf16")], planned: ["bf16"] }));
    expect(await captions((await open(["single.json"])).page)).not.toContain("Quality against bytes");
    save(
      home,
      "lost.json",
      result({ cells: [cell("bf16", { status: "failed", reason: "OSError: disk full" })] }),
    );
    const lost = await open(["lost.json"]);
    expect(await captions(lost.page)).toEqual([]);
    expect(await lost.page.locator("tbody").first().textContent()).toContain("OSError: disk full");
    expect(lost.troubles).toEqual([]);
  });

  it("draws servers under load against the rate", async () => {
    const { page, troubles } = await open(["served.json"]);
    expect((await captions(page)).slice(2)).toEqual([
      "Requests served",
      "Tokens served",
      "Time to first token, 99th percentile",
      "Time between tokens, 99th percentile",
    ]);
    const requests = page.locator("figure").nth(2);
    expect(await requests.locator("svg .role-mark.mark-symbol path").count()).toBe(4);
    const labels = requests.locator("svg .role-axis-label text");
    expect((await labels.allTextContents()).filter((text) => text === "1" || text === "inf")).toContain(
      "inf",
    );
    expect(troubles).toEqual([]);
  });

  it("sorts its cells by a column, both ways, those without a figure last", async () => {
    const { page } = await open([`${long}.json`]);
    const caches = () => page.locator(".cells tbody tr td:first-child").allTextContents();
    expect(await caches()).toEqual(["bf16", "fp8", "k4v4", "k4v2"]);
    const head = page.locator(".cells th", { hasText: "tokens held" });
    await head.getByRole("button").click();
    expect(await caches()).toEqual(["bf16", "k4v4", "fp8", "k4v2"]);
    expect(await head.getAttribute("aria-sort")).toBe("ascending");
    await head.getByRole("button").press("Enter");
    expect(await caches()).toEqual(["k4v4", "bf16", "fp8", "k4v2"]);
    expect(await head.getAttribute("aria-sort")).toBe("descending");
    await page.locator(".cells th", { hasText: "cache" }).getByRole("button").click();
    expect(await caches()).toEqual(["bf16", "fp8", "k4v2", "k4v4"]);
    expect(await head.getAttribute("aria-sort")).toBeNull();
  });

  it("runs no script of a result", async () => {
    const { page, troubles } = await open(["hostile.json"]);
    expect(await page.evaluate(() => "hit" in globalThis)).toBe(false);
    expect(await page.locator("img").count()).toBe(0);
    expect(await page.title()).toContain("</script><script>window.hit");
    expect(troubles).toEqual([]);
  });

  it("shows several results, their findings and their environment", async () => {
    const { page, troubles } = await open(["one.json", "two.json", `${long}.json`]);
    expect(await page.locator(".set").allTextContents()).toHaveLength(3);
    expect(await page.locator(".set").nth(2).textContent()).toContain("(incomplete)");
    expect(await page.getByText("kivi: 0.1.0 (one), 0.2.0 (two)").count()).toBe(1);
    expect(await page.locator("li.error").count()).toBe(3);
    expect(await page.locator('.environment tr:has(th:text-is("vLLM")) td').allTextContents()).toEqual([
      "0.26.0",
      "0.26.0",
      "0.26.0",
    ]);
    expect(troubles).toEqual([]);
  });

  /** Relative luminances as WCAG 2 counts contrast. */
  const contrast = (page: Page, selector: string) =>
    page
      .locator(selector)
      .first()
      .evaluate((element) => {
        const luminance = (colour: string): number => {
          const [r = 0, g = 0, b = 0] = (colour.match(/[\d.]+/g) ?? []).slice(0, 3).map((part) => {
            const share = Number(part) / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
          });
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ink = getComputedStyle(element)[element instanceof SVGElement ? "fill" : "color"];
        let behind: Element | null = element;
        while (behind && getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)")
          behind = behind.parentElement;
        const ground = luminance(behind ? getComputedStyle(behind).backgroundColor : "rgb(255, 255, 255)");
        const [low = 0, high = 0] = [luminance(ink), ground].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
      });

  /** Texts of plots that reach over the plot's edge, are shortened or too small to read. */
  const cutTexts = (page: Page): Promise<string[]> =>
    page.locator("figure svg").evaluateAll((all) =>
      all.flatMap((svg) => {
        const frame = svg.getBoundingClientRect();
        return [...svg.querySelectorAll("text")].flatMap((text) => {
          const box = text.getBoundingClientRect();
          const inside =
            box.left >= frame.left - 1 &&
            box.right <= frame.right + 1 &&
            box.top >= frame.top - 1 &&
            box.bottom <= frame.bottom + 1;
          const whole = !(text.textContent ?? "").endsWith("…");
          const small = box.height < 10;
          return inside && whole && !small ? [] : [`${text.textContent}: ${JSON.stringify(box)}`];
        });
      }),
    );

  it.each([
    [1280, "light"],
    [1280, "dark"],
    [390, "light"],
    [390, "dark"],
  ] as const)("is readable at %d pixels in %s", async (width, scheme) => {
    const { page, troubles } = await open(["one.json", "served.json", `${long}.json`], width, scheme);
    // Wide tables scroll in their frames, not the page.
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(width);
    for (const selector of [
      "h1",
      ".quiet",
      "li.error strong",
      "li.warning strong",
      "figure text",
      "td.figure small",
    ]) {
      expect(await contrast(page, selector), selector).toBeGreaterThanOrEqual(4.5);
    }
    for (const cache of ["bf16", "fp8", "k4v4", "k4v2", "k2v2"]) {
      const mark = `figure path[fill="var(--cache-${cache})"]`;
      expect(await contrast(page, mark), mark).toBeGreaterThanOrEqual(3);
    }
    expect(await cutTexts(page)).toEqual([]);
    const shots = process.env.KIVI_TEST_SCREENSHOTS;
    if (shots !== undefined)
      await page.screenshot({ fullPage: true, path: join(shots, `${width}-${scheme}.png`) });
    expect(troubles).toEqual([]);
  });

  it("names every cache of a large matrix in full", async () => {
    const { page } = await open(["many.json"], 390);
    expect(await cutTexts(page)).toEqual([]);
    for (const name of ["int4_per_token_head", "k2v2"])
      expect(await page.locator("figure text", { hasText: name }).count(), name).toBeGreaterThan(2);
  });

  it("prints on white, with nothing cut off by a frame", async () => {
    const { page } = await open(["one.json"], 1280, "dark");
    await page.emulateMedia({ media: "print", colorScheme: "dark" });
    expect(await page.evaluate(() => getComputedStyle(document.body).backgroundColor)).toBe(
      "rgb(255, 255, 255)",
    );
    expect(
      await page
        .locator(".scroll")
        .first()
        .evaluate((frame) => getComputedStyle(frame).overflowX),
    ).toBe("visible");
    // Letter, landscape, without its margins, at 96 pixels an inch.
    await page.setViewportSize({ width: 980, height: 740 });
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(980);
  });
});
