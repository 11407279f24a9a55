import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { describe, expect, it } from "vitest";
import { temporaryFolder } from "../helpers/cli.js";
import { canMount } from "../helpers/mounts.js";
import { type App, makeApp, makeVenv, sitePackages } from "../helpers/stand-in.js";
import { treeOf } from "../helpers/tree.js";

const app = makeApp();
const slow = makeApp({ version: "0.2.0", plugin: "slow" });

/** Starts an install of the plugin that hangs, and waits until it is being verified: the new files are in place. */
async function installUntilVerify(kivi: App, venv: string) {
  const flag = join(kivi.home, "verifying");
  rmSync(flag, { force: true });
  const child = kivi.start(["install", venv, "--json"]);
  while (!existsSync(flag)) await sleep(20);
  // In an object: a bare child would be awaited to its end by the caller's await.
  return { child };
}

describe("a plugin that vLLM does not load", () => {
  it.each([
    ["raises", "no such attention class"],
    ["idle", '"registered": false'],
  ] as const)("(%s) fails the install and leaves the environment as before", async (plugin, found) => {
    const broken = makeApp({ plugin });
    const venv = makeVenv();
    const before = treeOf(venv);
    const result = await broken.run(["install", venv, "--json"]);
    expect(result.code).toBe(3);
    expect(JSON.parse(result.stdout).error).toMatchObject({
      code: "plugin-not-loaded",
      message: expect.stringContaining(found),
    });
    expect(treeOf(venv)).toEqual(before);
  });

  it("gives the previous version back when it was an upgrade", async () => {
    const venv = makeVenv();
    await app.run(["install", venv]);
    const before = treeOf(venv);
    const broken = makeApp({ version: "0.3.0", plugin: "raises" });
    expect((await broken.run(["install", venv])).code).toBe(3);
    expect(treeOf(venv)).toEqual(before);
  });
});

describe("an interrupted install", () => {
  it.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const)("is taken back on %s, with exit code %i", async (signal, code) => {
    const venv = makeVenv();
    await app.run(["install", venv]);
    const before = treeOf(venv);
    const { child } = await installUntilVerify(slow, venv);
    expect(treeOf(venv)).not.toEqual(before);
    child.kill(signal);
    const { exitCode, stdout } = await child;
    expect(exitCode).toBe(code);
    expect(JSON.parse(String(stdout)).error.code).toBe("interrupted");
    expect(treeOf(venv)).toEqual(before);
  });

  it("that was killed outright is taken back by the next kivi", async () => {
    const venv = makeVenv();
    await app.run(["install", venv]);
    const before = treeOf(venv);
    const { child } = await installUntilVerify(slow, venv);
    child.kill("SIGKILL");
    await child;
    expect(existsSync(join(sitePackages(venv), ".kivi-work", "journal.json"))).toBe(true);
    const result = await app.run(["install", venv, "--json"]);
    expect(result.stderr).toContain("was put back first");
    expect(JSON.parse(result.stdout).outcome).toBe("unchanged");
    expect(treeOf(venv)).toEqual(before);
  });
});

describe("the lock", () => {
  it("keeps a second kivi out while the first one works", async () => {
    const venv = makeVenv();
    const before = treeOf(venv);
    const { child } = await installUntilVerify(slow, venv);
    const second = await app.run(["install", venv, "--json"]);
    expect(second.code).toBe(3);
    expect(JSON.parse(second.stdout).error).toMatchObject({
      code: "environment-busy",
      message: expect.stringContaining(String(child.pid)),
    });
    child.kill("SIGINT");
    await child;
    expect(treeOf(venv)).toEqual(before);
  });

  it("of a process that is gone is taken over", async () => {
    const venv = makeVenv();
    const before = treeOf(venv);
    const gone = await execa("sh", ["-c", "echo $$"]);
    const owner = { pid: Number(gone.stdout), host: hostname(), started: "1" };
    writeFileSync(join(sitePackages(venv), ".kivi-lock"), JSON.stringify(owner));
    expect((await app.run(["install", venv])).code).toBe(0);
    await app.run(["uninstall", venv]);
    expect(treeOf(venv)).toEqual(before);
  });
});

describe.skipIf(!canMount)("a full disk", () => {
  it("is told as such and leaves the environment as before", async () => {
    const disk = join(temporaryFolder(), "disk");
    mkdirSync(disk);
    await execa("mount", ["-t", "tmpfs", "-o", "size=4m", "tmpfs", disk]);
    try {
      const venv = join(disk, "venv");
      const source = makeVenv();
      await execa("cp", ["-a", source, venv]);
      const site = sitePackages(venv);
      const before = treeOf(venv);
      const { stdout } = await execa("df", ["--output=avail", "-B1", disk]);
      const free = Number(stdout.split("\n")[1]);
      // Room for the lock and the first files, not for all of them.
      writeFileSync(join(disk, "ballast"), Buffer.alloc(free - 5 * 4096));
      const result = await app.run(["install", venv, "--json"]);
      expect(result.code).toBe(3);
      expect(JSON.parse(result.stdout).error).toMatchObject({
        code: "disk-full",
        message: expect.stringContaining(site),
        hint: expect.stringContaining(`kivi install ${venv}`),
      });
      expect(treeOf(venv)).toEqual(before);
      rmSync(join(disk, "ballast"));
      expect((await app.run(["install", venv])).code).toBe(0);
      expect(readdirSync(site).filter((name) => name.startsWith(".kivi"))).toEqual([]);
    } finally {
      await execa("umount", [disk]);
    }
  });
});
