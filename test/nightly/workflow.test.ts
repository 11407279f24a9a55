/** The nightly workflow as it stands: its steps run in a shell, with a stand-in for npm that knows this package's scripts. */
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { z } from "zod";
import { TESTED_ON_CPU } from "../../src/core/venv/supported.js";
import { repository, temporaryFolder } from "../helpers/cli.js";

const step = z.strictObject({
  name: z.string().optional(),
  if: z.literal("always()").optional(),
  run: z.string().optional(),
  uses: z.string().optional(),
  with: z.record(z.string(), z.unknown()).optional(),
});
const job = z.strictObject({
  "runs-on": z.literal("ubuntu-latest"),
  "timeout-minutes": z.number(),
  strategy: z.object({ matrix: z.record(z.string(), z.array(z.string())) }).optional(),
  env: z.record(z.string(), z.string()).optional(),
  steps: z.array(step).min(1),
});
const { jobs, permissions } = z
  .object({ jobs: z.record(z.string(), job), permissions: z.record(z.string(), z.string()) })
  .parse(parse(readFileSync(join(repository, ".github", "workflows", "nightly.yml"), "utf8")));
const { scripts } = JSON.parse(readFileSync(join(repository, "package.json"), "utf8")) as {
  scripts: Record<string, string>;
};

/** Runs a step's text as GitHub does; the words that each npm got. */
async function npmCalls(text: string, env: Record<string, string>): Promise<string[][]> {
  const bin = temporaryFolder();
  const calls = join(bin, "calls");
  writeFileSync(calls, "");
  writeFileSync(
    join(bin, "npm"),
    `#!${process.execPath}\nrequire("fs").appendFileSync(${JSON.stringify(calls)}, JSON.stringify(process.argv.slice(2)) + "\\n");\n`,
  );
  chmodSync(join(bin, "npm"), 0o755);
  const path = `${bin}:${process.env.PATH}`;
  await execa("bash", ["-e", "-c", text], { env: { PATH: path, ...env }, extendEnv: false, cwd: repository });
  const lines = readFileSync(calls, "utf8").trim().split("\n");
  return lines.map((line) => JSON.parse(line) as string[]);
}

describe("the nightly workflow", () => {
  it("may only read, and every step is of a known form", () => {
    expect(permissions).toEqual({ contents: "read" });
    const uses = Object.values(jobs).flatMap(({ steps }) => steps.flatMap((one) => one.uses ?? []));
    for (const name of uses)
      expect(name).toMatch(/^actions\/(checkout|setup-node|setup-python|upload-artifact)@v\d+$/);
  });

  it("leaves nothing in its shell for GitHub to fill in", () => {
    const texts = Object.values(jobs).flatMap(({ steps }) => steps.flatMap((one) => one.run ?? []));
    expect(texts.filter((text) => text.includes("${{"))).toEqual([]);
  });

  it("runs scripts that there are, with words that they know", async () => {
    const called: string[] = [];
    for (const { steps, env = {} } of Object.values(jobs)) {
      const filled = Object.fromEntries(Object.keys(env).map((name) => [name, "0.26.0"]));
      for (const { run } of steps) {
        if (run === undefined) continue;
        for (const [command, script = "", dashes, ...words] of await npmCalls(run, filled)) {
          expect([command, Object.keys(scripts)]).toEqual(["run", expect.arrayContaining([script])]);
          expect(dashes === undefined || dashes === "--").toBe(true);
          const entry = /node ((?:test|release)\/\S+)/.exec(scripts[script] ?? "")?.[1] ?? "";
          const source = script === "test:soak" ? join("test", "engine", "soak.py") : entry;
          const text = readFileSync(join(repository, source), "utf8");
          for (const word of words.filter((one) => one.startsWith("--")))
            expect(text).toMatch(new RegExp(`"(?:--)?${word.slice(2)}"|\\b${word.slice(2)}: \\{ type`));
          called.push([script, ...words].join(" "));
        }
      }
    }
    expect(called).toEqual([
      "test:soak --minutes 60 --output soak.json",
      "audit",
      "release --dry-run",
      "test:versions --versions 0.26.0",
    ]);
  });

  it("covers every release of vLLM's CPU build that is supported, and gives an hour's soak the time", () => {
    expect(jobs.versions?.strategy?.matrix.vllm).toEqual([...TESTED_ON_CPU.keys()]);
    expect(jobs.versions?.env?.VLLM).toMatch(/^\$\{\{ matrix\.vllm \}\}$/);
    expect(jobs.soak?.["timeout-minutes"]).toBeGreaterThan(90);
  });
});
