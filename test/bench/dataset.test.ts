/** `--text` as a data set, loaded by the environment's own library; no hub is asked. */
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { kivi, temporaryFolder } from "../helpers/cli.js";
import { writeTinyModel } from "../helpers/tiny-model.js";

/** An environment with real vLLM; `npm test` makes one and names it here. */
const venv = process.env.KIVI_TEST_VENV;

describe.skipIf(venv === undefined)("the text of a data set (KIVI_TEST_VENV)", () => {
  const home = temporaryFolder();
  const plan = (text: string) =>
    kivi(
      [
        ...["bench", "model", "--venv", venv as string, "--suites", "perplexity", "--caches", "bf16"],
        ...["--window", "64", "--text", text, "--dry-run", "--json"],
      ],
      { home, env: { HF_HUB_OFFLINE: "1" } },
    );
  beforeAll(() => {
    writeTinyModel(join(home, "model"));
    mkdirSync(join(home, "prose"));
    const rows = Array.from({ length: 10 }, (_, index) => JSON.stringify({ text: `Row ${index} of prose.` }));
    writeFileSync(join(home, "prose", "train.jsonl"), rows.join("\n"));
    writeFileSync(join(home, "a:b:c"), "A file whose name looks like a data set is a file. ".repeat(9));
  });

  it("is put into kivi's cache folder, and measured from there", async () => {
    expect(await plan("./prose::train[:50%]")).toMatchObject({ code: 0 });
    const texts = join(home, ".cache", "vllm-kivi", "texts");
    const [name = ""] = readdirSync(texts);
    const text = readFileSync(join(texts, name), "utf8");
    expect(text).toBe(Array.from({ length: 5 }, (_, index) => `Row ${index} of prose.`).join("\n\n"));
    expect(name).toBe(`${createHash("sha256").update(text).digest("hex")}.txt`);
  });

  it("leaves files what they are", async () => {
    expect((await plan("a:b:c")).code).toBe(0);
  });

  it.each([
    ["prose::test", "dataset-unreadable", `Unknown split "test". Should be one of ['train']`],
    ["nobody/nothing::train", "dataset-unreachable", "Couldn't reach 'nobody/nothing' on the Hub"],
    ["prose::train[:1]", "text-too-short", "too few for one window of 64 tokens"],
    ["prose.txt", "text-unreadable", "cannot be read"],
  ])("says what is wrong with %s", async (text, code, message) => {
    const found = await plan(text);
    expect(found.code).toBe(2);
    expect(JSON.parse(found.stdout)).toMatchObject({
      error: { code, message: expect.stringContaining(message), hint: expect.any(String) },
    });
  });
});
