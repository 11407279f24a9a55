import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { parseCommandLine } from "../../src/cli/parse.js";
import { schema } from "../../src/commands/bench-kernels.schema.js";
import { commands } from "../../src/commands/index.js";
import { KERNEL_NAMES, type KernelsRequest, prepareKernels } from "../../src/core/kernels/index.js";
import { fakeWorld } from "../bench/fixtures.js";
import { repository, temporaryFolder } from "../helpers/cli.js";
import { kernels } from "./results.js";

const home = temporaryFolder();

function parsed(...argv: string[]) {
  return parseCommandLine(argv, commands, { version: "0", width: 100 });
}

describe("kivi bench kernels", () => {
  it("is a command of its own, and kivi bench still takes a model", () => {
    expect(parsed("bench", "kernels", "--only", "k4v4", "--output", "x.json", "--json")).toMatchObject({
      kind: "command",
      command: { name: "bench kernels" },
      input: { only: "k4v4", output: "x.json" },
      flags: { json: true },
    });
    expect(parsed("bench", "./kernels", "--output", "x.json")).toMatchObject({
      command: { name: "bench" },
      input: { model: ["./kernels"], output: "x.json" },
    });
    expect(parsed("bench", "--output", "x.json", "./model")).toMatchObject({ input: { model: ["./model"] } });
  });

  it("keeps what stands before its name", () => {
    expect(parsed("bench", "--venv", "v", "kernels", "--samples", "3")).toMatchObject({
      command: { name: "bench kernels" },
      input: { venv: "v", samples: "3" },
    });
  });

  it("names its own help in errors", () => {
    expect(parsed("bench", "kernels", "--onyl", "x")).toMatchObject({
      kind: "error",
      error: { hint: "Run kivi bench kernels --help" },
    });
    expect(parsed("bench", "kernels", "--help")).toMatchObject({
      text: expect.stringContaining("kivi bench kernels [options]"),
    });
  });

  it("reads its lists", () => {
    expect(schema.parse({ only: "k4v4, fa3-bf16", ratios: "4,8", memory: "40GiB" })).toEqual({
      only: ["k4v4", "fa3-bf16"],
      ratios: [4, 8],
      memory: 40 * 2 ** 30,
    });
    expect(schema.safeParse({ only: "fa3" }).success).toBe(false);
    // Of `kivi bench`, where it would be ignored.
    expect(schema.safeParse({ model: "m" }).success).toBe(false);
  });

  it("knows the implementations that the worker knows", () => {
    const catalog = readFileSync(
      join(repository, "bench", "kivi_bench", "kernels", "catalog.py"),
      "utf8",
    ).replace("    BASELINE:", '    "fa3-bf16":');
    expect([...catalog.matchAll(/^ {4}"([\w-]+)": "/gm)].map(([, name]) => name)).toEqual([...KERNEL_NAMES]);
  });
});

describe("a run", () => {
  const request: KernelsRequest = { python: "python3", output: join(home, "out.json") };
  const saved = (more = {}) =>
    writeFileSync(
      request.output,
      JSON.stringify({ ...kernels({ createdAt: "2026-01-02T03:04:05.000Z" }), ...more }),
    );

  it("gives the worker its words and returns what it saved", async () => {
    const world = fakeWorld(home, () => {
      saved();
      return { exitCode: 0 };
    });
    const asked = {
      ...request,
      only: ["k4v4"] as const,
      ratios: [4, 8],
      memoryBytes: 2 ** 29,
      sources: true,
    };
    const { result, passed } = await prepareKernels(world.context, asked).run();
    expect(passed).toBe(true);
    expect(result.measurements).toHaveLength(6);
    const argv = world.commands[0]?.argv.join(" ");
    expect(argv).toMatch(
      /^python3 \S+bench\/kernels\.py --out \S+out\.json --logs \S+ --only k4v4 --ratios 4,8/,
    );
    expect(argv).toMatch(/--memory-gib 0\.5 --sources$/);
  });

  it("with a finding is not passed", async () => {
    const world = fakeWorld(home, () => {
      saved();
      return { exitCode: 1 };
    });
    expect((await prepareKernels(world.context, request).run()).passed).toBe(false);
  });

  it.each([
    ["leaves half a result", { complete: false }],
    ["leaves the file of an earlier run", { createdAt: "2026-01-02T03:04:04.000Z" }],
  ])("that %s is an error", async (_, more) => {
    const world = fakeWorld(home, () => {
      saved(more);
      return { exitCode: 1, tail: ["Traceback", "KeyError: 'x'"] };
    });
    await expect(prepareKernels(world.context, request).run()).rejects.toMatchObject({
      code: "kernels-failed",
      exitCode: 4,
      message: expect.stringContaining("KeyError"),
    });
  });
});
