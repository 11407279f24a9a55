import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { kivi, temporaryFolder } from "../helpers/cli.js";
import { installPlugin } from "../helpers/installed-plugin.js";
import { makeMeasuredVenv } from "../helpers/measured-venv.js";

const home = temporaryFolder();
const venv = makeMeasuredVenv(join(home, "venv"));
const site = join(venv, "lib");
const file = join(site, "vllm_kivi.py");
mkdirSync(join(home, "model"));
for (const name of ["config.json", "tokenizer.json"]) writeFileSync(join(home, "model", name), "{}");

beforeEach(() => void installPlugin(site));

const MATRIX = ["model", "--suites", "capacity", "--caches", "bf16,k4v4"];

async function bench(words: readonly string[], env: Record<string, string> = {}) {
  const output = join(home, "result.json");
  rmSync(output, { force: true });
  const args = ["bench", ...words, "--venv", venv, "--output", output, "--json"];
  const { code, stdout } = await kivi(args, { home, env });
  const { error } = JSON.parse(stdout) as { error?: { code: string; message: string; hint: string } };
  return { code, error, measured: existsSync(output) };
}

describe.each([
  ["kivi bench", MATRIX],
  ["kivi bench kernels", ["kernels", "--only", "fa3-bf16,k4v4-triton", "--dry-run"]],
])("%s refuses, before it measures,", (_, words) => {
  it("a plugin whose files are not those that were installed", async () => {
    writeFileSync(file, "wrong\n");
    expect(await bench(words)).toEqual({
      code: 3,
      error: expect.objectContaining({
        code: "plugin-damaged",
        message: expect.stringContaining(`${file} (changed)`),
        hint: expect.stringContaining(`kivi install ${venv} --force`),
      }),
      measured: false,
    });
    rmSync(file);
    expect(await bench(words)).toMatchObject({
      code: 3,
      error: { code: "plugin-damaged", hint: `kivi install ${venv}` },
    });
  });

  it("an environment without it, and one that is told to leave it out", async () => {
    expect(await bench(words, { VLLM_PLUGINS: "other" })).toMatchObject({
      code: 3,
      error: { code: "plugin-switched-off" },
    });
    rmSync(join(site, "vllm_kivi-0.1.0.dist-info"), { recursive: true });
    expect(await bench(words)).toMatchObject({
      code: 3,
      error: { code: "plugin-missing", hint: `kivi install ${venv}` },
      measured: false,
    });
  });
});

describe("a damaged plugin is no matter", () => {
  beforeEach(() => writeFileSync(file, "wrong\n"));

  it("to vLLM's own caches", async () => {
    const found = await bench(["model", "--suites", "capacity", "--caches", "bf16"]);
    expect(found).toEqual({ code: 0, error: undefined, measured: true });
  });

  it.each([["--only", "fa3-bf16"], ["--sources"]])(
    "to kernels that are not its own (%s)",
    async (...words) => {
      expect(await bench(["kernels", ...words, "--dry-run"])).toMatchObject({ code: 0, error: undefined });
    },
  );
});

it("an intact one is measured", async () => {
  expect(await bench(MATRIX)).toEqual({ code: 0, error: undefined, measured: true });
});
