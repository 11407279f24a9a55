import { describe, expect, it } from "vitest";
import { z } from "zod";
import { main } from "../../src/cli/main.js";
import { type CommandSpec, defineCommand } from "../../src/shared/command.js";
import { environmentError } from "../../src/shared/errors.js";
import { integer } from "../../src/shared/values.js";
import { temporaryFolder } from "../helpers/cli.js";

const home = temporaryFolder();

const count: CommandSpec = defineCommand({
  name: "count",
  summary: "counts",
  description: "Counts.",
  examples: [{ command: "kivi count --times 3", explanation: "counts to three" }],
  arguments: [{ name: "venv", description: "where" }],
  options: [{ flags: "--times <number>", description: "how often" }],
  passThrough: { name: "words", description: "echoed" },
  schema: async () =>
    z.strictObject({
      venv: z.string().optional(),
      times: integer({ min: 1 }).default(1),
      rest: z.array(z.string()),
    }),
  handler: async () => async (input) => {
    if (input.times === 13) throw environmentError("unlucky", "13 found.", "kivi count --times 12");
    return {
      result: input,
      exitCode: input.times === 7 ? 1 : 0,
      render: (out) => out.result(`n=${input.times}`),
    };
  },
});

async function run(...argv: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  let stdout = "";
  let stderr = "";
  const code = await main(argv, {
    stdout: { write: (text) => (stdout += text) },
    stderr: { write: (text) => (stderr += text) },
    env: { HOME: home },
    cwd: home,
    commands: [count],
    handleSignals: false,
  });
  return { code, stdout, stderr };
}

describe("the command line", () => {
  it("prints help and the version on stdout", async () => {
    expect((await run("--help")).stdout).toContain("count [options]");
    const help = await run("count", "--help");
    expect(help.code).toBe(0);
    expect(help.stdout).toContain("$ kivi count --times 3");
    expect(help.stdout).toContain("--json");
    expect((await run("--version")).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  it("gives the handler checked values and what follows --", async () => {
    const { code, stdout } = await run("count", "here", "--times", "3", "--json", "--", "--json", "-x");
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toEqual({ venv: "here", times: 3, rest: ["--json", "-x"] });
  });

  it("exits 1 when the handler reports a finding", async () => {
    expect(await run("count", "--times", "7")).toMatchObject({ code: 1, stdout: "n=7\n" });
  });

  it.each([["NaN"], ["3x"], [""], ["-1"], ["1e3"], ["Infinity"]])(
    "refuses --times %j as usage",
    async (value) => {
      const { code, stderr, stdout } = await run("count", `--times=${value}`);
      expect(code).toBe(2);
      expect(stdout).toBe("");
      expect(stderr).toContain(`--times: expected a whole number of at least 1, found "${value}"`);
      expect(stderr).toContain("next:  Run kivi count --help");
    },
  );

  it("suggests the nearest command and option", async () => {
    expect((await run("cuont")).stderr).toMatch(/unknown command 'cuont'.*Did you mean.*count/i);
    const option = await run("count", "--tmes", "3");
    expect(option).toMatchObject({ code: 2, stdout: "" });
    expect(option.stderr).toMatch(/unknown option '--tmes'.*Did you mean --times/i);
  });

  it("prints errors as one JSON document under --json", async () => {
    const usage = await run("count", "--times", "x", "--json");
    expect(usage.code).toBe(2);
    expect(JSON.parse(usage.stdout).error).toMatchObject({ code: "invalid-value", exitCode: 2 });
    const parse = await run("--json", "count", "a", "b");
    expect(parse.code).toBe(2);
    expect(JSON.parse(parse.stdout).error).toMatchObject({ code: "excess-arguments" });
    const environment = await run("count", "--times", "13", "--json");
    expect(environment.code).toBe(3);
    expect(JSON.parse(environment.stdout)).toMatchObject({
      error: { code: "unlucky", hint: "kivi count --times 12" },
      log: expect.stringContaining(home),
    });
  });

  it("refuses --quiet with --verbose", async () => {
    expect((await run("count", "-q", "-v")).code).toBe(2);
  });
});
