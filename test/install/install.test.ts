import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { describe, expect, it } from "vitest";
import { bareEnvironment } from "../helpers/cli.js";
import { asRoot, canMount } from "../helpers/mounts.js";
import { makeApp, makeVenv, sitePackages } from "../helpers/stand-in.js";
import { treeOf } from "../helpers/tree.js";

const app = makeApp();

describe("kivi install and uninstall", () => {
  it("installs a distribution that Python sees, and uninstall gives the very tree of before", async () => {
    const venv = makeVenv();
    const before = treeOf(venv);
    const install = await app.run(["install", venv, "--json"]);
    expect(install.stderr).toContain("Check in a fresh interpreter");
    expect(install.code).toBe(0);
    expect(JSON.parse(install.stdout)).toMatchObject({
      outcome: "installed",
      version: "0.1.0",
      status: { registered: true },
    });
    const site = sitePackages(venv);
    expect(readdirSync(join(site, "vllm_kivi")).sort()).toEqual([
      "__init__.py",
      "backend",
      "kernels",
      "version.py",
    ]);
    expect(readdirSync(join(site, "vllm_kivi", "kernels"))).toEqual(["decode.py"]);
    expect(readdirSync(site).filter((name) => name.startsWith("."))).toEqual([]);

    const script = "import vllm_kivi.kernels.decode, importlib.metadata as m; print(m.version('vllm-kivi'))";
    const python = join(venv, "bin", "python");
    expect(
      (await execa(python, ["-c", script], { env: bareEnvironment(app.home), extendEnv: false })).stdout,
    ).toBe("0.1.0");
    expect(existsSync(join(site, "vllm_kivi", "__pycache__"))).toBe(true);

    const uninstall = await app.run(["uninstall", venv, "--json"]);
    expect(uninstall.code).toBe(0);
    expect(JSON.parse(uninstall.stdout)).toMatchObject({ outcome: "removed", kept: [] });
    expect(treeOf(venv)).toEqual(before);
  });

  it("uses the active environment, then ./.venv, and says so when there is neither", async () => {
    const venv = makeVenv();
    expect((await app.run(["install"], { env: { VIRTUAL_ENV: venv } })).code).toBe(0);
    const none = await app.run(["install", "--json"]);
    expect(none.code).toBe(3);
    expect(JSON.parse(none.stdout).error).toMatchObject({
      code: "no-venv",
      hint: expect.stringContaining("--create"),
    });
  });

  it("is idempotent, and repairs a file that is gone", async () => {
    const venv = makeVenv();
    await app.run(["install", venv]);
    const installed = treeOf(venv);
    const again = await app.run(["install", venv, "--json"]);
    expect(JSON.parse(again.stdout)).toMatchObject({ outcome: "unchanged" });
    expect(treeOf(venv)).toEqual(installed);
    rmSync(join(sitePackages(venv), "vllm_kivi", "version.py"));
    const repair = await app.run(["install", venv, "--json"]);
    expect(JSON.parse(repair.stdout)).toMatchObject({ outcome: "reinstalled" });
    expect(treeOf(venv)).toEqual(installed);
  });

  it("upgrades: files of the old version that the new one lacks are gone", async () => {
    const venv = makeVenv();
    const before = treeOf(venv);
    const old = makeApp({ version: "0.0.9", extraFiles: ["legacy.py"] });
    await old.run(["install", venv]);
    const upgrade = await app.run(["install", venv, "--json"]);
    expect(JSON.parse(upgrade.stdout)).toMatchObject({
      outcome: "upgraded",
      previous: "0.0.9",
      version: "0.1.0",
    });
    const site = sitePackages(venv);
    expect(existsSync(join(site, "vllm_kivi", "legacy.py"))).toBe(false);
    expect(readdirSync(site).filter((name) => name.startsWith("vllm_kivi"))).toEqual([
      "vllm_kivi",
      "vllm_kivi-0.1.0.dist-info",
    ]);
    await app.run(["uninstall", venv]);
    expect(treeOf(venv)).toEqual(before);
  });

  it("prints the plan of --dry-run from the actions that run, and changes nothing", async () => {
    const venv = makeVenv();
    const before = treeOf(venv);
    const dry = await app.run(["install", venv, "--dry-run", "--json"]);
    expect(dry.code).toBe(0);
    const plan = JSON.parse(dry.stdout) as { actions: { title: string; readOnly: boolean }[] };
    expect(treeOf(venv)).toEqual(before);
    const real = await app.run(["install", venv]);
    const steps = real.stderr.split("\n").filter((line) => line.endsWith(" ..."));
    expect(steps).toEqual(plan.actions.map(({ title }) => `${title} ...`));
    expect(plan.actions.filter(({ readOnly }) => readOnly).map(({ title }) => title)).toEqual([
      "Check in a fresh interpreter that vLLM loads it",
    ]);
    const undry = await app.run(["uninstall", venv, "--dry-run"]);
    expect(undry.stdout).toContain("RECORD");
    expect((await app.run(["uninstall", venv, "--json"])).stdout).toContain('"removed": ');
  });
});

describe("files changed by hand", () => {
  it("are named and kept by uninstall (exit 1), and removed with --force", async () => {
    const venv = makeVenv();
    await app.run(["install", venv]);
    const edited = join(sitePackages(venv), "vllm_kivi", "backend", "__init__.py");
    writeFileSync(edited, "# mine\n");
    const result = await app.run(["uninstall", venv, "--json"]);
    expect(result.code).toBe(1);
    expect(JSON.parse(result.stdout).kept).toEqual([edited]);
    expect(readFileSync(edited, "utf8")).toBe("# mine\n");
    expect(readdirSync(join(sitePackages(venv), "vllm_kivi"))).toEqual(["backend"]);

    const second = makeVenv();
    const before = treeOf(second);
    await app.run(["install", second]);
    writeFileSync(join(sitePackages(second), "vllm_kivi", "version.py"), "# mine");
    expect((await app.run(["uninstall", second, "--force"])).code).toBe(0);
    expect(treeOf(second)).toEqual(before);
  });

  it("stop an install unless --force is given", async () => {
    const venv = makeVenv();
    await app.run(["install", venv]);
    const edited = join(sitePackages(venv), "vllm_kivi", "version.py");
    writeFileSync(edited, "# mine");
    const before = treeOf(venv);
    const refused = await app.run(["install", venv, "--json"]);
    expect(refused.code).toBe(3);
    expect(JSON.parse(refused.stdout).error).toMatchObject({
      code: "files-changed-by-hand",
      details: { changed: [edited] },
    });
    expect(treeOf(venv)).toEqual(before);
    expect((await app.run(["install", venv, "--force"])).code).toBe(0);
  });
});

describe("uninstall by RECORD", () => {
  it("refuses when RECORD is missing", async () => {
    const venv = makeVenv();
    await app.run(["install", venv]);
    rmSync(join(sitePackages(venv), "vllm_kivi-0.1.0.dist-info", "RECORD"));
    const before = treeOf(venv);
    const result = await app.run(["uninstall", venv, "--json"]);
    expect(result.code).toBe(3);
    expect(JSON.parse(result.stdout).error.code).toBe("record-missing");
    expect(treeOf(venv)).toEqual(before);
  });

  it.each([
    ["../../../../victim.txt"],
    ["../../../pyvenv.cfg"],
    ["vllm_kivi/../../../../../victim.txt"],
    ["/etc/hostname"],
    [".."],
    ["linked/victim.txt"],
  ])("refuses a path outside site-packages: %s", async (path) => {
    const venv = makeVenv();
    await app.run(["install", venv]);
    const record = join(sitePackages(venv), "vllm_kivi-0.1.0.dist-info", "RECORD");
    writeFileSync(record, `${path},,\n${readFileSync(record, "utf8")}`);
    const elsewhere = join(venv, "..", "elsewhere");
    mkdirSync(elsewhere);
    const victims = [join(venv, "..", "victim.txt"), join(elsewhere, "victim.txt")];
    for (const victim of victims) writeFileSync(victim, "");
    symlinkSync(elsewhere, join(sitePackages(venv), "linked"));
    const before = treeOf(venv);
    const result = await app.run(["uninstall", venv, "--json"]);
    expect(result.code).toBe(3);
    expect(JSON.parse(result.stdout).error).toMatchObject({
      code: "record-outside-venv",
      message: expect.stringContaining(path),
    });
    expect(treeOf(venv)).toEqual(before);
    expect(victims.every((victim) => existsSync(victim))).toBe(true);
  });

  it("follows no link: neither a file's nor that of a folder of caches", async () => {
    const venv = makeVenv();
    await app.run(["install", venv]);
    const elsewhere = join(venv, "..", "elsewhere");
    mkdirSync(elsewhere);
    for (const name of ["precious.txt", "decode.py"]) writeFileSync(join(elsewhere, name), "");
    const plugin = join(sitePackages(venv), "vllm_kivi");
    rmSync(join(plugin, "__pycache__"), { recursive: true, force: true });
    symlinkSync(elsewhere, join(plugin, "__pycache__"));
    rmSync(join(plugin, "kernels", "decode.py"));
    symlinkSync(join(elsewhere, "decode.py"), join(plugin, "kernels", "decode.py"));
    expect(await app.run(["uninstall", venv, "--force"])).toMatchObject({ code: 0 });
    expect(readdirSync(elsewhere).sort()).toEqual(["decode.py", "precious.txt"]);
    expect(existsSync(join(plugin, "kernels"))).toBe(false);
  });

  it("has nothing to do where the plugin is not installed", async () => {
    const result = await app.run(["uninstall", makeVenv(), "--json"]);
    expect(result).toMatchObject({ code: 0 });
    expect(JSON.parse(result.stdout)).toMatchObject({ outcome: "absent" });
  });
});

describe("bad environments", () => {
  it.each([
    ["not-a-venv", () => app.home],
    ["venv-missing", () => join(app.home, "nowhere")],
    ["not-a-venv", () => join(app.root, "package.json")],
    ["vllm-missing", () => makeVenv({ vllm: false })],
    ["vllm-unsupported", () => makeVenv({ vllm: "0.25.3" })],
    ["vllm-unsupported", () => makeVenv({ vllm: "0.27.0" })],
  ])("%s is one error with the next command", async (code, make) => {
    const venv = make();
    const human = await app.run(["install", venv]);
    expect(human.code).toBe(3);
    expect(human.stdout).toBe("");
    expect(human.stderr).toContain(venv);
    expect(human.stderr).toMatch(/^next: {2}.*(kivi install|pip install)/m);
    const { error } = JSON.parse((await app.run(["install", venv, "--json"])).stdout);
    expect(error).toMatchObject({ code, exitCode: 3 });
  });

  it.each([
    ["0.16.0+cpu", "in bfloat16 its logits are further from the reference"],
    ["0.18.1+cpu", "LD_PRELOAD"],
  ])("vLLM %s is refused with the reason, and nothing is changed", async (vllm, reason) => {
    const venv = makeVenv({ vllm });
    const before = treeOf(venv);
    const result = await app.run(["install", venv, "--json"]);
    expect(result.code).toBe(3);
    expect(JSON.parse(result.stdout).error).toMatchObject({
      code: "vllm-unsupported",
      message: expect.stringContaining(reason),
    });
    expect(treeOf(venv)).toEqual(before);
  });

  it("VLLM_PLUGINS that leaves kivi out is found before anything is changed", async () => {
    const venv = makeVenv();
    const before = treeOf(venv);
    const result = await app.run(["install", venv, "--json"], { env: { VLLM_PLUGINS: "other" } });
    expect(result.code).toBe(3);
    expect(JSON.parse(result.stdout).error).toMatchObject({
      code: "plugin-switched-off",
      hint: expect.stringContaining("VLLM_PLUGINS=other,kivi"),
    });
    expect(treeOf(venv)).toEqual(before);
  });

  it("another copy of the plugin on PYTHONPATH is not taken for ours", async () => {
    const venv = makeVenv();
    const before = treeOf(venv);
    const other = makeApp({ version: "0.0.1" });
    const result = await app.run(["install", venv, "--json"], {
      env: { PYTHONPATH: join(other.root, "python-plugin") },
    });
    expect(result.code).toBe(3);
    expect(JSON.parse(result.stdout).error.code).toBe("plugin-shadowed");
    expect(treeOf(venv)).toEqual(before);
  });

  it.skipIf(asRoot && !canMount)("site-packages that cannot be written is told as such", async () => {
    const venv = makeVenv();
    const site = sitePackages(venv);
    const before = treeOf(venv);
    // For root the mode bits mean nothing; a read-only mount does.
    if (asRoot) {
      await execa("mount", ["--bind", site, site]);
      await execa("mount", ["-o", "remount,ro,bind", site]);
    } else chmodSync(site, 0o555);
    try {
      const result = await app.run(["install", venv, "--json"]);
      expect(result.code).toBe(3);
      expect(JSON.parse(result.stdout).error).toMatchObject({
        code: "site-packages-read-only",
        message: expect.stringContaining(site),
      });
    } finally {
      if (asRoot) await execa("umount", [site]);
      else chmodSync(site, 0o755);
    }
    expect(treeOf(venv)).toEqual(before);
  });
});
