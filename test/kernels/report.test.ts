import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "csv-parse/sync";
import { describe, expect, it } from "vitest";
import { temporaryFolder } from "../helpers/cli.js";
import { result, save } from "../report/results.js";
import { report } from "../report/run.js";
import { kernels } from "./results.js";

const home = temporaryFolder();
save(home, "kernels.json", kernels());

describe("a result of the kernel benchmark", () => {
  it("is a table of times, one of shares and one of speeds, with the reasons for what is missing", async () => {
    const { code, stdout } = await report(home, ["kernels.json"]);
    expect(code).toBe(0);
    expect(stdout.split("\n").map((line) => line.trim().replace(/ {2,}/g, "  "))).toEqual([
      "NVIDIA H200",
      "vLLM 0.26.0, torch 2.11.0, triton 3.6.0, vllm-kivi not installed, kernels 0123456789ab, kivi 0.1.0",
      "8 KV heads of 128, cold L2 cache, CUDA graphs, copy bandwidth 4.29 TB/s, an empty graph takes 2.3 us",
      "",
      "Microseconds, medians",
      "load  k4v4  fa3-bf16",
      "1x512 gqa 4  8.25  failed",
      "16x32768 gqa 4  200  500",
      "256x131072 gqa 4  skipped  -",
      "256x131072 gqa 8  skipped  -",
      "",
      "Bytes of the cache a second, of the copy bandwidth",
      "load  k4v4  fa3-bf16",
      "1x512 gqa 4  25 %  failed",
      "16x32768 gqa 4  25 %  25 %",
      "256x131072 gqa 4  skipped  -",
      "256x131072 gqa 8  skipped  -",
      "",
      "Speed relative to fa3-bf16",
      "load  k4v4  fa3-bf16",
      "1x512 gqa 4  -  failed",
      "16x32768 gqa 4  2.50x  1.00x",
      "256x131072 gqa 4  skipped  -",
      "256x131072 gqa 8  skipped  -",
      "",
      "fa3-fp8 unsupported: no FA3 | <here>",
      "fa3-bf16 failed at 1x512 gqa 4: RuntimeError: =cmd @someone",
      "k4v4 skipped at 256x131072 gqa 4 and 1 more: it takes 190.0 GiB of the 120.0 GiB that there are",
      "",
    ]);
  });

  it("is Markdown and HTML that escape what others wrote", async () => {
    const { stdout } = await report(home, ["kernels.json", "--format", "markdown"]);
    expect(stdout).toContain("| 16x32768 gqa 4 | 2.50x | 1.00x |");
    expect(stdout).toContain("no FA3 \\| &lt;here&gt;");
    expect(stdout).toContain("=cmd &#64;someone");
    expect((await report(home, ["kernels.json", "--format", "html", "--output", "k.html"])).code).toBe(0);
    const page = readFileSync(join(home, "k.html"), "utf8");
    expect(page).toContain('<td class="figure">2.50x</td>');
    expect(page).toContain("no FA3 | &lt;here&gt;");
  });

  it("is CSV with a line for each figure", async () => {
    const { stdout } = await report(home, ["kernels.json", "--format", "csv"]);
    const rows = parse(stdout, { columns: true }) as Record<string, string>[];
    expect(rows).toHaveLength(6);
    expect(rows[0]).toMatchObject({
      device: "NVIDIA H200",
      implementation: "k4v4",
      batch: "16",
      context: "32768",
      gqa: "4",
      status: "ok",
      reason: "",
      microseconds: "200",
      fastest: "199.5",
      slowest: "201",
      copy_share: "0.254",
      speed_to_baseline: "2.5",
    });
    expect(rows[3]).toMatchObject({ status: "failed", microseconds: "", speed_to_baseline: "" });
  });

  it("is itself as JSON", async () => {
    expect(JSON.parse((await report(home, ["kernels.json", "--json"])).stdout)).toEqual(kernels());
    expect(JSON.parse((await report(home, ["kernels.json", "--format", "json"])).stdout)).toEqual(kernels());
  });

  it("without a GPU says why there is nothing", async () => {
    const [first] = kernels().implementations;
    const reason = "there is no CUDA device";
    save(home, "none.json", {
      ...kernels({ machine: null, copy: null, measurements: [] }),
      implementations: [{ ...first, status: "unsupported", reason }],
    });
    const { code, stdout } = await report(home, ["none.json"]);
    expect(code).toBe(0);
    expect(stdout).toBe(`kivi 0.1.0\n\nk4v4 unsupported: ${reason}\n`);
  });

  it.each([
    [["kernels.json", "--format", "junit"], "format-unavailable"],
    [["kernels.json", "--format", "github"], "format-unavailable"],
    [["kernels.json", "matrix.json"], "kernels-alone"],
    [["wrong.json"], "not-a-kernels-result"],
  ])("%j is refused", async (argv, error) => {
    save(home, "matrix.json", result());
    save(home, "wrong.json", { ...kernels(), schemaVersion: 2 });
    const { code, stdout } = await report(home, [...argv, "--output", "x", "--json"]);
    expect(code).toBe(2);
    expect(JSON.parse(stdout).error.code).toBe(error);
  });
});
