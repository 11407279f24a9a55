/** Runs the steps of the CI template as they stand; stand-ins only for npm, and for what needs vLLM. */
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { z } from "zod";
import { openResult } from "../../src/core/bench/index.js";
import { bareEnvironment, repository, temporaryFolder } from "../helpers/cli.js";
import { holding, makeMeasuredVenv } from "../helpers/measured-venv.js";

const step = z.object({
  name: z.string().optional(),
  if: z.string().optional(),
  run: z.string().optional(),
  uses: z.string().optional(),
  with: z.record(z.string(), z.unknown()).optional(),
});
const workflow = z
  .object({ jobs: z.object({ bench: z.object({ steps: z.array(step) }) }) })
  .parse(parse(readFileSync(join(repository, "templates", "ci", "kivi-bench.yml"), "utf8")));
const { steps } = workflow.jobs.bench;

interface Ran {
  readonly name: string;
  readonly code: number | undefined;
  readonly output: string;
}

interface Runner {
  readonly checkout: string;
  readonly temp: string;
  readonly env: Record<string, string>;
}

function program(path: string, text: string): void {
  writeFileSync(path, `#!/bin/sh\n${text}\n`);
  chmodSync(path, 0o755);
}

/** A clone, a temporary folder, and a PATH on which `kivi install` checks its words and links a ready environment. */
function makeRunner(change?: Parameters<typeof makeMeasuredVenv>[1]): Runner {
  const root = temporaryFolder();
  const at = (...parts: string[]): string => join(root, ...parts);
  for (const name of ["checkout", "temp", "home", "bin"]) mkdirSync(at(name));
  for (const name of ["bin", "dist", "bench", "node_modules", "python-plugin", "triton-kernels"]) {
    symlinkSync(join(repository, name), at("checkout", name));
  }
  for (const name of ["package.json", "package-lock.json"]) {
    copyFileSync(join(repository, name), at("checkout", name));
  }
  cpSync(join(repository, "templates"), at("checkout", "templates"), { recursive: true });
  const venv = makeMeasuredVenv(at("ready"), change);
  const kivi = `"${process.execPath}" "${join(repository, "bin", "kivi.js")}"`;
  program(
    at("bin", "kivi"),
    `[ "$1" = install ] || exec ${kivi} "$@"\n${kivi} "$@" --dry-run && ln -s "${venv}" "$3"`,
  );
  program(
    at("bin", "npm"),
    `exec "${process.execPath}" "${join(repository, "test", "helpers", "npm-stand-in.mjs")}" "$@"`,
  );
  const env = bareEnvironment(at("home"), {
    RUNNER_TEMP: at("temp"),
    GITHUB_STEP_SUMMARY: at("temp", "summary.md"),
    CI: "true",
  });
  return { checkout: at("checkout"), temp: at("temp"), env: { ...env, PATH: `${at("bin")}:${env.PATH}` } };
}

/** Each `run:` in order, as GitHub runs it: with `bash -e`, and after a failure only where `if: always()` stands. */
async function runSteps({ checkout, env }: Runner): Promise<Ran[]> {
  const ran: Ran[] = [];
  for (const { name = "", run, if: condition } of steps) {
    if (run === undefined) continue;
    if (ran.some(({ code }) => code !== 0) && condition !== "always()") continue;
    const options = {
      cwd: checkout,
      env,
      extendEnv: false,
      reject: false,
      all: true,
      stdin: "ignore",
    } as const;
    const { exitCode, all } = await execa("bash", ["-e", "-c", run], options);
    ran.push({ name, code: exitCode, output: all });
  }
  return ran;
}

const ALL = [
  "Install kivi",
  "Make an environment with vLLM's CPU build",
  "Fetch a model",
  "Measure and judge",
  "Report the result",
];

function ranStep(ran: readonly Ran[], name: string): Ran | undefined {
  return ran.find((one) => one.name === name);
}

describe("the CI template", () => {
  it("passes for a good measurement and leaves the result where the upload takes it, come what may", async () => {
    const runner = makeRunner();
    const ran = await runSteps(runner);
    expect(ran.map(({ name, code }) => [name, code])).toEqual(ALL.map((name) => [name, 0]));
    expect(ranStep(ran, "Measure and judge")?.output).toContain("3 of 3 gates passed");
    expect(ranStep(ran, "Report the result")?.output).toMatch(/^::(notice|warning) title=kivi bench/m);
    expect(readFileSync(join(runner.temp, "summary.md"), "utf8")).toContain("| k4v4 |");
    const upload = steps.at(-1);
    expect(upload).toMatchObject({
      uses: expect.stringMatching(/^actions\/upload-artifact@/),
      if: "always()",
    });
    const [result = "", page = ""] = String(upload?.with?.path).trim().split("\n");
    expect(readFileSync(join(runner.checkout, page), "utf8")).toMatch(/^<!doctype html>/);
    const kept = await openResult(join(runner.checkout, result));
    expect(kept.cells.map((cell) => [cell.cache, cell.status])).toEqual([
      ["bf16", "ok"],
      ["k4v4", "ok"],
    ]);
  });

  it.each([
    ["fewer tokens held", holding(160_000), "failed   k4v4.capacity_ratio < 3.5: found 3.43407"],
    [
      "a worse perplexity",
      (cell: object) => ({
        ...cell,
        perplexity: { ...("perplexity" in cell ? (cell.perplexity as object) : {}), perplexity: 26 },
      }),
      "failed   k4v4.perplexity_increase_percent > 1.5: found 5.6674",
    ],
    [
      "a cell that did not run",
      () => ({ status: "failed", reason: "RuntimeError: no kernel" }),
      "missing  k4v4.capacity_ratio < 3.5: k4v4 failed: RuntimeError: no kernel",
    ],
  ])("fails for %s, and keeps the result", async (_, change, words) => {
    const runner = makeRunner(change);
    const ran = await runSteps(runner);
    expect(ranStep(ran, "Measure and judge")).toMatchObject({
      code: 1,
      output: expect.stringContaining(words),
    });
    expect(ranStep(ran, "Report the result")?.code).toBe(0);
    expect(existsSync(join(runner.checkout, "kivi-bench.json"))).toBe(true);
  });

  it("fails for a misspelt threshold before anything is measured", async () => {
    const runner = makeRunner();
    const matrix = join(runner.checkout, "templates", "ci", "matrix.yaml");
    writeFileSync(matrix, readFileSync(matrix, "utf8").replace("capacity_ratio", "capcity_ratio"));
    const ran = await runSteps(runner);
    expect(ranStep(ran, "Measure and judge")).toMatchObject({
      code: 2,
      output: expect.stringContaining('Did you mean "capacity_ratio"?'),
    });
    expect(existsSync(join(runner.checkout, "kivi-bench.json"))).toBe(false);
  });

  it("stops at the first step that fails", async () => {
    const runner = makeRunner();
    program(join(runner.env.PATH?.split(":")[0] ?? "", "npm"), "exit 1");
    expect(await runSteps(runner)).toMatchObject([
      { name: "Install kivi", code: 1 },
      { name: "Report the result", code: 0 },
    ]);
  });

  it("leaves nothing in its shell for GitHub to fill in, which no test could run", () => {
    expect(steps.filter(({ run }) => run?.includes("${{")).map(({ name }) => name)).toEqual([]);
  });
});
