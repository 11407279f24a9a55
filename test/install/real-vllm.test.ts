import { lstatSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { describe, expect, it } from "vitest";
import { bareEnvironment, kivi, temporaryFolder } from "../helpers/cli.js";

/** An environment with real vLLM; `npm test` makes one and names it here. */
const source = process.env.KIVI_TEST_VENV;

/** Every path with what identifies its content without reading gigabytes: inode, size and time of change. */
function listing(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .map((name) => {
      const stat = lstatSync(join(folder, name));
      return stat.isDirectory() ? name : `${name} ${stat.ino} ${stat.size} ${stat.mtimeMs}`;
    })
    .sort();
}

const ASK = `
from vllm.plugins import load_general_plugins
load_general_plugins()
from vllm.config import CacheConfig
print(CacheConfig(cache_dtype="kivi_k4v4").cache_dtype)
`;

describe.skipIf(source === undefined)("with real vLLM (KIVI_TEST_VENV)", () => {
  it("vLLM knows the KIVI cache after install, and uninstall gives the tree of before", async () => {
    const home = temporaryFolder();
    const venv = join(temporaryFolder(), "venv");
    // Hard links: kivi only ever adds, moves and removes files of its own.
    await execa("cp", ["-al", source as string, venv]).catch(() =>
      execa("cp", ["-a", source as string, venv]),
    );
    expect((await kivi(["uninstall", venv, "--force"], { home })).code).toBe(0);
    const before = listing(venv);
    const install = await kivi(["install", venv, "--json"], { home });
    expect(install.stderr).not.toContain("error:");
    expect(JSON.parse(install.stdout)).toMatchObject({
      outcome: "installed",
      status: { registered: true, presets: ["k4v4", "k4v2", "k2v2"] },
    });
    const env = bareEnvironment(home, { VLLM_LOGGING_LEVEL: "ERROR" });
    const { stdout } = await execa(join(venv, "bin", "python"), ["-B", "-c", ASK], { env, extendEnv: false });
    expect(stdout.trim().split("\n").at(-1)).toBe("kivi_k4v4");

    expect((await kivi(["uninstall", venv], { home })).code).toBe(0);
    expect(listing(venv)).toEqual(before);
  }, 400_000);
});
