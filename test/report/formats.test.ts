import { readFileSync } from "node:fs";
import { join } from "node:path";
import { DOMParser, type Element } from "@xmldom/xmldom";
import { parse } from "csv-parse/sync";
import { describe, expect, it } from "vitest";
import { METRIC_NAMES } from "../../src/core/gates/metrics.js";
import { temporaryFolder } from "../helpers/cli.js";
import { cell, result, save, troubled } from "./results.js";
import { report } from "./run.js";

const home = temporaryFolder();
const one = [{ batch: 4, context: 1024 }];
const SMALL = result({ cells: [cell("bf16", {}, one), cell("fp8", {}, one), cell("k4v4", {}, one)] });
save(home, "small.json", SMALL);
save(home, "later.json", { ...SMALL, tool: { name: "kivi", version: "0.2.0" } });
save(home, "troubled.json", troubled());
save(home, "other.json", { ...SMALL, model: "another/model" });

async function shown(...argv: string[]): Promise<string> {
  const { code, stdout, stderr } = await report(home, argv);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return stdout;
}

describe("the table", () => {
  it("is what kivi bench prints", async () => {
    expect(await shown("small.json")).toMatchInlineSnapshot(`
      "HuggingFaceTB/SmolLM2-135M-Instruct (bfloat16) on AMD EPYC, 2 CPUs
      vLLM 0.26.0, torch 2.11.0+cu130, vllm-kivi 0.1.0, kivi 0.1.0
      1.0 GiB of cache memory a cell, staging for 16 sequences counted, eager
      perplexity of 12 windows of 1024 tokens of a text

      cache  bytes/token         tokens held         seqs of 1,152   staging
      bf16        23,040  1.00x       46,592  1.00x           40.4         -
      fp8         11,520  0.50x       93,184  2.00x           80.9         -
      k4v4         6,165  0.27x      168,064  3.61x            146  35.9 MiB

      cache  prefill 4x1024+32                            decode 4x1024+32
      bf16                 527                     1.00x               243                     1.00x
      fp8                  537  within noise [0.99-1.02]               279  within noise [0.41-2.83]
      k4v4                 537  within noise [0.99-1.02]               315  within noise [0.41-3.20]

      cache  perplexity
      bf16       24.580
      fp8        25.270  +2.81 %
      k4v4       24.720  +0.57 %

      Prefill and decode in tokens/s of the whole engine, medians.
      [low-high]: how far the ratio reaches over the samples of both.
      "
    `);
  });

  it("puts the cells of several results under each other and says what differs", async () => {
    expect(await shown("small.json", "later.json")).toMatchInlineSnapshot(`
      "small: HuggingFaceTB/SmolLM2-135M-Instruct (bfloat16) on AMD EPYC, 2 CPUs
      vLLM 0.26.0, torch 2.11.0+cu130, vllm-kivi 0.1.0, kivi 0.1.0
      1.0 GiB of cache memory a cell, staging for 16 sequences counted, eager
      perplexity of 12 windows of 1024 tokens of a text
      later: HuggingFaceTB/SmolLM2-135M-Instruct (bfloat16) on AMD EPYC, 2 CPUs
      vLLM 0.26.0, torch 2.11.0+cu130, vllm-kivi 0.1.0, kivi 0.2.0
      1.0 GiB of cache memory a cell, staging for 16 sequences counted, eager
      perplexity of 12 windows of 1024 tokens of a text

      The results differ in
        kivi: 0.1.0 (small), 0.2.0 (later)

      cache        bytes/token         tokens held         seqs of 1,152   staging
      bf16  small       23,040  1.00x       46,592  1.00x           40.4         -
      bf16  later       23,040  1.00x       46,592  1.00x           40.4         -
      fp8  small        11,520  0.50x       93,184  2.00x           80.9         -
      fp8  later        11,520  0.50x       93,184  2.00x           80.9         -
      k4v4  small        6,165  0.27x      168,064  3.61x            146  35.9 MiB
      k4v4  later        6,165  0.27x      168,064  3.61x            146  35.9 MiB

      cache        prefill 4x1024+32                            decode 4x1024+32
      bf16  small                527                     1.00x               243                     1.00x
      bf16  later                527                     1.00x               243                     1.00x
      fp8  small                 537  within noise [0.99-1.02]               279  within noise [0.41-2.83]
      fp8  later                 537  within noise [0.99-1.02]               279  within noise [0.41-2.83]
      k4v4  small                537  within noise [0.99-1.02]               315  within noise [0.41-3.20]
      k4v4  later                537  within noise [0.99-1.02]               315  within noise [0.41-3.20]

      cache        perplexity
      bf16  small      24.580
      bf16  later      24.580
      fp8  small       25.270  +2.81 %
      fp8  later       25.270  +2.81 %
      k4v4  small      24.720  +0.57 %
      k4v4  later      24.720  +0.57 %

      Prefill and decode in tokens/s of the whole engine, medians.
      [low-high]: how far the ratio reaches over the samples of both.
      "
    `);
  });

  it("says that a run did not end, and in which result", async () => {
    expect(await shown("troubled.json")).toMatch(/^Incomplete: /m);
    expect(await shown("small.json", "troubled.json")).toMatch(/^Incomplete in troubled: /m);
  });
});

describe("Markdown", () => {
  it("has figures with ratios, findings and the environment", async () => {
    expect(await shown("small.json", "--format", "markdown")).toMatchInlineSnapshot(`
      "## KV cache benchmark

      - HuggingFaceTB/SmolLM2-135M-Instruct (bfloat16) on AMD EPYC, 2 CPUs

      | cache | bytes/token | tokens held | seqs of 1,152 | staging |
      | --- | ---: | ---: | ---: | ---: |
      | bf16 | 23,040 (1.00x) | 46,592 (1.00x) | 40.4 | - |
      | fp8 | 11,520 (0.50x) | 93,184 (2.00x) | 80.9 | - |
      | k4v4 | 6,165 (0.27x) | 168,064 (3.61x) | 146 | 35.9 MiB |

      | cache | prefill 4x1024+32 | decode 4x1024+32 |
      | --- | ---: | ---: |
      | bf16 | 527 (1.00x) | 243 (1.00x) |
      | fp8 | 537 (within noise \\[0.99-1.02\\]) | 279 (within noise \\[0.41-2.83\\]) |
      | k4v4 | 537 (within noise \\[0.99-1.02\\]) | 315 (within noise \\[0.41-3.20\\]) |

      | cache | perplexity |
      | --- | ---: |
      | bf16 | 24.580 |
      | fp8 | 25.270 (+2.81 %) |
      | k4v4 | 24.720 (+0.57 %) |

      <details><summary>Environment</summary>

      |  | small |
      | --- | --- |
      | model | HuggingFaceTB/SmolLM2-135M-Instruct |
      | model fingerprint | unknown |
      | platform | cpu |
      | device | AMD EPYC |
      | devices | 0 |
      | CPUs | 2 |
      | dtype | bfloat16 |
      | max model length | 1152 |
      | max sequences | 16 |
      | max batched tokens | 512 |
      | eager | yes |
      | prefix caching | no |
      | tensor parallel | 1 |
      | vLLM arguments | not given |
      | cache memory | 1.0 GiB |
      | GPU memory utilization | not given |
      | load format | not given |
      | tokens of a sequence | 1152 |
      | perplexity window | 1024 |
      | perplexity windows | 12 |
      | perplexity text | sha256 0690908f6d3c |
      | text | unknown |
      | vLLM | 0.26.0 |
      | torch | 2.11.0+cu130 |
      | driver | unknown |
      | Python | 3.11.7 |
      | vllm-kivi | 0.1.0 |
      | kivi | 0.1.0 |
      | KIVI settings | not given |
      | operating system | Linux |
      | rounds | 1 |
      | seed | 0 |
      | command | unknown |
      | started | 2026-01-02T03:04:05.000Z |
      | updated | 2026-01-02T03:14:05.000Z |

      </details>
      "
    `);
  });

  it("tells incomplete runs, lost cells and unlike results", async () => {
    const text = await shown("troubled.json", "other.json", "--force", "--format", "markdown");
    expect(text).toContain("on AMD EPYC, 2 CPUs **(incomplete)**");
    expect(text).toContain("| fp8 | troubled | unsupported: needs AVX-512 |");
    expect(text).toContain("- **error** troubled: k2v2 not measured: ");
    expect(text).toContain("> [!CAUTION]\n> These results cannot be compared");
    expect(text).toContain(
      "> - model: HuggingFaceTB/SmolLM2-135M-Instruct (troubled), another/model (other)",
    );
  });
});

describe("CSV", () => {
  const rows = (text: string) => parse(text, { columns: true }) as Record<string, string>[];

  it("has a row for each figure of each result", async () => {
    const table = rows(await shown("small.json", "later.json", "--format", "csv"));
    // Four of capacity, prefill and decode of one load, perplexity; three caches; two results.
    expect(table).toHaveLength(7 * 3 * 2);
    expect(
      table.find((row) => row.result === "later" && row.cache === "k4v4" && row.metric === "capacity_tokens"),
    ).toEqual({
      result: "later",
      complete: "true",
      comparable: "true",
      model: "HuggingFaceTB/SmolLM2-135M-Instruct",
      device: "AMD EPYC",
      vllm: "0.26.0",
      "vllm-kivi": "0.1.0",
      started: "2026-01-02T03:04:05.000Z",
      cache: "k4v4",
      status: "ok",
      reason: "",
      metric: "capacity_tokens",
      load: "",
      value: "168064",
      unit: "tokens",
      ratio_to_baseline: String(168_064 / 46_592),
      ratio_low: "",
      ratio_high: "",
    });
  });

  it("names figures as gates do", async () => {
    const table = rows(await shown("small.json", "--format", "csv"));
    expect(METRIC_NAMES).toEqual(expect.arrayContaining([...new Set(table.map((row) => row.metric))]));
  });

  it("has a row for a cell without figures, with its reason", async () => {
    const table = rows(await shown("troubled.json", "--format", "csv"));
    const lost = table.filter((row) => row.status !== "ok");
    expect(lost.map((row) => [row.cache, row.status, row.reason, row.metric])).toEqual([
      ["fp8", "unsupported", "needs AVX-512", ""],
      ["k4v2", "failed", "RuntimeError: 50% done\nsee: a,b", ""],
      ["k2v2", "not measured", "", ""],
    ]);
    expect(new Set(table.map((row) => row.complete))).toEqual(new Set(["false"]));
  });
});

describe("JUnit", () => {
  async function suites(...argv: string[]): Promise<Element[]> {
    const failOn = (level: string, message: string): never => {
      throw new Error(`${level}: ${message}`);
    };
    const document = new DOMParser({ onError: failOn }).parseFromString(
      await shown(...argv, "--format", "junit"),
      "text/xml",
    );
    expect(document.documentElement?.tagName).toBe("testsuites");
    return [...document.getElementsByTagName("testsuite")];
  }
  const attributes = (element: Element | undefined) =>
    Object.fromEntries([...(element?.attributes ?? [])].map(({ name, value }) => [name, value]));

  it("has a suite for each result and a case for each cache, with its figures", async () => {
    const [small, later, ...more] = await suites("small.json", "later.json");
    expect(more).toEqual([]);
    expect(attributes(small)).toMatchObject({
      name: "small",
      tests: "3",
      failures: "0",
      errors: "0",
      skipped: "0",
    });
    expect(attributes(later).name).toBe("later");
    const cases = [...(small?.getElementsByTagName("testcase") ?? [])];
    expect(cases.map((one) => one.getAttribute("name"))).toEqual(["bf16", "fp8", "k4v4"]);
    expect(cases[2]?.textContent).toContain("tokens held: 168,064 3.61x");
    const properties = [...(small?.getElementsByTagName("property") ?? [])].map(attributes);
    expect(properties).toContainEqual({ name: "vLLM", value: "0.26.0" });
  });

  it("passes no cell that did not run, and no run that did not end", async () => {
    const [suite] = await suites("troubled.json");
    expect(attributes(suite)).toMatchObject({ tests: "6", failures: "0", errors: "3", skipped: "1" });
    const verdicts = [...(suite?.getElementsByTagName("testcase") ?? [])].map((one) => [
      one.getAttribute("name"),
      ["skipped", "failure", "error"].find((kind) => one.getElementsByTagName(kind).length > 0) ?? "passed",
    ]);
    expect(verdicts).toEqual([
      ["bf16", "passed"],
      ["fp8", "skipped"],
      ["k4v4", "passed"],
      ["k4v2", "error"],
      ["k2v2", "error"],
      ["whole run", "error"],
    ]);
  });

  it("fails a cache that was asked for by name and is not supported", async () => {
    const cells = [cell("bf16"), cell("fp8", { status: "unsupported", reason: "needs AVX-512" })];
    save(home, "asked.json", result({ cells }));
    expect(attributes((await suites("asked.json"))[0])).toMatchObject({ failures: "1", skipped: "0" });
  });
});

describe("GitHub", () => {
  it("has an annotation for each finding, and appends the Markdown to the job summary", async () => {
    const summary = save(home, "summary.md", "before\n");
    const argv = ["troubled.json", "--format", "github"];
    const { code, stdout } = await report(home, argv, { GITHUB_STEP_SUMMARY: summary });
    expect(code).toBe(0);
    expect(stdout).toMatchInlineSnapshot(`
      "::error title=kivi bench%3A incomplete::The run is not finished or was interrupted; go on with kivi bench --resume.
      ::warning title=kivi bench%3A fp8 unsupported::needs AVX-512
      ::warning title=kivi bench%3A k4v4 noisy::Samples of prefill and decode at 4x2048+32 differ by more than 15 %25: measure again or with more --repeats.
      ::warning title=kivi bench%3A k4v4 overloaded::4x2048+32 is more tokens than the cache holds: sequences waited or were computed again.
      ::error title=kivi bench%3A k4v2 failed::RuntimeError: 50%25 done see: a,b
      ::error title=kivi bench%3A k2v2 not measured::It was planned and has no cell.
      "
    `);
    expect(readFileSync(summary, "utf8")).toBe(
      `before\n${await shown("troubled.json", "--format", "markdown")}`,
    );
  });

  it("says so when there is nothing to annotate", async () => {
    const { stdout, stderr } = await report(home, ["small.json", "--format", "github"]);
    expect(stdout).toBe("::notice title=kivi bench::3 cells measured, nothing to report\n");
    expect(stderr).toContain("GITHUB_STEP_SUMMARY is not set");
  });

  it("says when the summary cannot be written", async () => {
    const env = { GITHUB_STEP_SUMMARY: join(home, "no", "such", "folder.md") };
    const { code, stderr } = await report(home, ["small.json", "--format", "github"], env);
    expect(code).toBe(3);
    expect(stderr).toContain("GITHUB_STEP_SUMMARY");
  });
});

describe("JSON", () => {
  it("is one document with figures, findings and the results themselves", async () => {
    const document = JSON.parse(await shown("small.json", "troubled.json", "--format", "json"));
    expect(document).toMatchObject({ kind: "kivi-report", version: 1, complete: false, comparable: true });
    expect(document.results[0]).toEqual({ name: "small", path: join(home, "small.json"), result: SMALL });
    expect(document.figures).toContainEqual({
      result: "small",
      cache: "k4v4",
      status: "ok",
      reason: null,
      metric: "perplexity",
      load: null,
      value: 24.72,
      unit: null,
      ratioToBaseline: 24.72 / 24.58,
      ratioLow: null,
      ratioHigh: null,
    });
    expect(document.findings.map((finding: { title: string }) => finding.title)).toContain("k4v2 failed");
  });

  it("is what --json prints, which then has no room for another format", async () => {
    expect(await shown("small.json", "--json")).toBe(await shown("small.json", "--format", "json"));
    const { code, stdout } = await report(home, ["small.json", "--json", "--format", "csv"]);
    expect(code).toBe(2);
    expect(JSON.parse(stdout).error.code).toBe("conflicting-flags");
  });
});

describe("--output", () => {
  it("writes the file, whole, and says so", async () => {
    const path = save(home, "out.csv", "old");
    const { code, stdout, stderr } = await report(home, [
      "small.json",
      "--format",
      "csv",
      "--output",
      "out.csv",
    ]);
    expect({ code, stdout }).toEqual({ code: 0, stdout: "" });
    expect(stderr).toContain(`Wrote ${path} (csv, `);
    expect(readFileSync(path, "utf8")).toBe(await shown("small.json", "--format", "csv"));
  });

  it("goes with --json, which then says what was written", async () => {
    const { stdout } = await report(home, [
      "small.json",
      "--json",
      "--format",
      "junit",
      "--output",
      "deep/r.xml",
    ]);
    const { written } = JSON.parse(stdout);
    expect(written).toMatchObject({ path: join(home, "deep", "r.xml"), format: "junit" });
    expect(readFileSync(written.path).length).toBe(written.bytes);
  });

  it("that cannot be written is an error of the environment", async () => {
    save(home, "file", "");
    const { code, stderr } = await report(home, ["small.json", "--output", "file/report.txt"]);
    expect(code).toBe(3);
    expect(stderr).toContain("--output");
  });
});
