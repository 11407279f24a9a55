import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { inOrder } from "../../src/core/bench/caches.js";
import { requireKnownCaches } from "../../src/core/bench/known-caches.js";
import { kivi, repository, temporaryFolder } from "../helpers/cli.js";
import { fakeWorld } from "./fixtures.js";

const home = temporaryFolder();
/** An environment with real vLLM; `npm test` makes one and names it here. */
const venv = process.env.KIVI_TEST_VENV;

function installed(...names: string[]) {
  const world = fakeWorld(home, () => ({ stdout: JSON.stringify(names) }));
  const check = (...caches: string[]) =>
    requireKnownCaches(world.context, { caches, python: "/venv/bin/python" });
  return { ...world, check };
}

describe("the caches of a matrix", () => {
  it("are those of the installed vLLM, which is asked only about names that not every vLLM has", async () => {
    const { check, commands } = installed("auto", "fp8", "int4_per_token_head");
    await check("bf16", "fp8", "k4v4");
    expect(commands).toHaveLength(0);
    await check("bf16", "int4_per_token_head");
    expect(commands).toHaveLength(1);
  });

  it("lists them all, with the nearest, for a name that it lacks", async () => {
    await expect(installed("auto", "fp8", "turboquant_k8v4").check("turboquant_k8v5")).rejects.toMatchObject({
      code: "unknown-cache",
      exitCode: 2,
      message: expect.stringMatching(
        /the vLLM of \/venv has no KV cache "turboquant_k8v5"\. Did you mean "turboquant_k8v4"\?\nIt has bf16, fp8, turboquant_k8v4, k4v4, k4v2, k2v2\.$/,
      ),
    });
  });

  it("leaves the name to the engine where vLLM keeps its list elsewhere", async () => {
    await expect(installed().check("int3")).resolves.toBeUndefined();
  });

  it("stand in one order: vLLM's own before KIVI's", () => {
    expect(inOrder(["k4v4", "turboquant_k8v4", "bf16", "int4_per_token_head", "fp8", "k4v4"])).toEqual([
      ...["bf16", "fp8", "int4_per_token_head", "turboquant_k8v4", "k4v4"],
    ]);
  });
});

describe.skipIf(venv === undefined)("with real vLLM (KIVI_TEST_VENV)", () => {
  it("reads vLLM's list without importing it", async () => {
    const model = join(home, "model");
    mkdirSync(model);
    writeFileSync(join(model, "config.json"), "{}");
    const bench = (caches: string) => {
      const words = ["bench", model, "--venv", venv as string, "--suites", "capacity", "--dry-run"];
      return kivi([...words, "--caches", caches], { home, cwd: repository });
    };
    const slip = await bench("int4_per_token_hed");
    expect(slip).toMatchObject({ code: 2, stderr: expect.stringContaining('mean "int4_per_token_head"?') });
    expect(slip.stderr).toContain("turboquant_k8v4");
    expect(await bench("int4_per_token_head,turboquant_4bit_nc")).toMatchObject({
      code: 0,
      stdout: expect.stringContaining("Cell 3 of 3: turboquant_4bit_nc"),
    });
  });
});
