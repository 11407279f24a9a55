/** An upgrade that is killed before each of its changes to the environment, one run for each and for what comes next. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execaSync } from "execa";
import { expect, it } from "vitest";
import { temporaryFolder } from "../helpers/cli.js";
import { makeApp, makeVenv, sitePackages } from "../helpers/stand-in.js";
import { treeOf } from "../helpers/tree.js";

const killer = fileURLToPath(new URL("../helpers/die-at-write.mjs", import.meta.url));
const old = makeApp({ extraFiles: ["legacy.py"] });
const app = makeApp({ version: "0.2.0" });
const template = makeVenv();
const venv = join(temporaryFolder(), "venv");

function renew(): void {
  execaSync("rm", ["-rf", venv]);
  execaSync("cp", ["-a", template, venv]);
}

it.each(["install", "uninstall"])(
  "is taken back or completed by the next %s, which then works",
  async (next) => {
    renew();
    const bare = treeOf(venv);
    await old.run(["install", venv]);
    await app.run(["install", venv]);
    const after = next === "install" ? treeOf(venv) : bare;
    await app.run(["uninstall", template]);
    expect((await old.run(["install", template])).code).toBe(0);
    let killed = 0;
    for (let at = 0; ; at++) {
      renew();
      const env = { NODE_OPTIONS: `--import ${killer}`, DIE_BELOW: sitePackages(venv), DIE_AT: String(at) };
      const child = await app.start(["install", venv], env);
      if (child.exitCode === 0) break; // It made fewer changes than that.
      expect(child.signal).toBe("SIGKILL");
      killed += 1;
      const result = await app.run([next, venv]);
      expect({ at, ...result }).toMatchObject({ at, code: 0 });
      expect({ at, tree: treeOf(venv) }).toEqual({ at, tree: after });
    }
    await app.run(["uninstall", template]);
    // The lock, new files and their folders, the journal, every move, and the clean-up.
    expect(killed).toBeGreaterThan(30);
  },
  900_000,
);
