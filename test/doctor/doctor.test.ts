import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { describe, expect, it } from "vitest";
import { SEAMS } from "../../src/core/doctor/rivals.js";
import { repository, temporaryFolder } from "../helpers/cli.js";
import { makeApp, makeVenv, sitePackages } from "../helpers/stand-in.js";
import { treeOf } from "../helpers/tree.js";
import { examine, makeHealthyVenv } from "./helpers.js";

const app = makeApp();

/** A process id and start time that no process has any more. */
async function deadOwner(): Promise<string> {
  const gone = await execa("sh", ["-c", "echo $$"]);
  return JSON.stringify({ pid: Number(gone.stdout), host: hostname(), started: "1" });
}

/** A distribution of somebody else with an entry point of vLLM's group. */
function addDistribution(venv: string, name: string, entry: string, code = ""): void {
  const site = sitePackages(venv);
  const info = join(site, `${name}-1.0.dist-info`);
  mkdirSync(info);
  writeFileSync(join(info, "METADATA"), `Metadata-Version: 2.1\nName: ${name}\nVersion: 1.0\n`);
  writeFileSync(join(info, "entry_points.txt"), `[vllm.general_plugins]\n${entry} = ${name}:register\n`);
  writeFileSync(join(info, "RECORD"), `${name}.py,,\n`);
  writeFileSync(join(site, `${name}.py`), `def register():\n    pass\n${code}\n`);
}

describe("kivi doctor", () => {
  it("finds nothing wrong with a healthy environment, and leaves it as it is", async () => {
    const venv = await makeHealthyVenv(app);
    const before = treeOf(venv);
    const report = await examine(app, [venv, "--fix"]);
    expect(report.checks.filter(({ status }) => status === "fail")).toEqual([]);
    expect(report).toMatchObject({ code: 0, venv, version: "0.1.0", healthy: true });
    expect(report.checks.map(({ id }) => id)).toEqual([
      "python",
      "place",
      "vllm",
      "leftovers",
      "plugin",
      "files",
      "rivals",
      "loading",
      "driver",
      "gpu",
      "memory",
      "nvrtc",
      "kernels",
      "cache-folder",
    ]);
    for (const id of ["python", "place", "vllm", "leftovers", "plugin", "files", "rivals", "loading"])
      expect(report.check(id)).toMatchObject({ status: "ok" });
    expect(report.check("loading").message).toContain("presets: k4v4");
    expect(report.check("kernels")).toMatchObject({
      status: "skip",
      message: expect.stringContaining("CPU build"),
    });
    for (const id of ["gpu", "memory", "nvrtc"])
      expect(report.check(id)).toMatchObject({ status: "skip", message: "vLLM's CPU build" });
    const { ok, warn, fail, skip } = report.counts;
    expect([ok + warn + fail + skip, fail]).toEqual([report.checks.length, 0]);
    expect(treeOf(venv)).toEqual(before);
  });

  it("prints a line for each check and what to do next", async () => {
    const { code, stdout, stderr } = await app.run(["doctor", makeVenv({ vllm: false })]);
    expect(code).toBe(1);
    expect(stdout).toMatch(/^ok {4}interpreter: Python 3\./m);
    expect(stdout).toMatch(/^fail {2}vLLM: There is no vLLM in .*\n {6}next: Install it/m);
    expect(stdout).toMatch(/^skip {2}vLLM loads the plugin: there is no vLLM$/m);
    expect(stdout).toMatch(/\d+ ok, \d+ to look at, 2 failed, \d+ skipped$/);
    expect(stderr).not.toContain("error:");
  });

  it("says what it does while a slow check runs", async () => {
    const { stderr } = await app.run(["doctor", await makeHealthyVenv(app)]);
    expect(stderr).toContain("Check in a spawned worker that vLLM loads the plugin ...");
  });

  it.each([
    [3, "no-venv", []],
    [3, "venv-missing", ["nowhere"]],
    [3, "not-a-venv", ["."]],
    [2, "unknown-option", ["--repair"]],
  ])("is exit code %i (%s) where there is nothing to examine", async (code, name, args) => {
    const result = await app.run(["doctor", ...args, "--json"]);
    expect(result.code).toBe(code);
    expect(JSON.parse(result.stdout).error).toMatchObject({ code: name, exitCode: code });
  });

  it("ends cleanly on Ctrl-C", async () => {
    const venv = await makeHealthyVenv(app);
    const hangs =
      "import os, pathlib, time\npathlib.Path(os.environ['HOME'], 'hanging').touch()\ntime.sleep(60)\n";
    writeFileSync(join(sitePackages(venv), "vllm_kivi", "__init__.py"), hangs);
    const child = app.start(["doctor", venv, "--json"]);
    while (!existsSync(join(app.home, "hanging"))) await sleep(20);
    child.kill("SIGINT");
    const { exitCode, stdout } = await child;
    expect(exitCode).toBe(130);
    expect(JSON.parse(String(stdout)).error.code).toBe("interrupted");
  });
});

describe("the environment", () => {
  it("that was moved names where it was made and the scripts that start the old Python", async () => {
    const made = await makeHealthyVenv(app);
    writeFileSync(join(made, "bin", "vllm"), `#!${made}/bin/python3\nimport vllm\n`, { mode: 0o755 });
    expect((await examine(app, [made])).check("place").status).toBe("ok");
    const moved = join(temporaryFolder(), "moved");
    renameSync(made, moved);
    const report = await examine(app, [moved]);
    expect(report.code).toBe(1);
    expect(report.check("place")).toMatchObject({
      status: "fail",
      message: expect.stringMatching(new RegExp(`made in ${made} .*: vllm$`)),
      hint: expect.stringContaining("Move it back"),
    });
    // A link at the old place makes the scripts work again.
    symlinkSync(moved, made);
    expect((await examine(app, [moved])).check("place").status).toBe("ok");
    unlinkSync(made);
  });

  it("whose Python is gone is a failure, and what needs it is skipped", async () => {
    const venv = await makeHealthyVenv(app);
    const python = join(venv, "bin", "python");
    rmSync(python);
    symlinkSync("/nowhere/python3", python);
    const report = await examine(app, [venv]);
    expect(report.code).toBe(1);
    expect(report.check("python")).toMatchObject({
      status: "fail",
      message: expect.stringContaining("/nowhere/python3, which is gone"),
      hint: expect.stringContaining("kivi install --create"),
    });
    expect(report.check("plugin").status).toBe("skip");
    expect(report.check("cache-folder").status).not.toBe("skip");
  });

  it("with a vLLM that is not supported fails", async () => {
    const report = await examine(app, [makeVenv({ vllm: "0.25.3" })]);
    expect(report.check("vllm")).toMatchObject({
      status: "fail",
      message: expect.stringContaining("0.25.3"),
      hint: expect.stringContaining("pip install"),
    });
  });

  it("whose cache folder cannot be written fails", async () => {
    const file = join(temporaryFolder(), "file");
    writeFileSync(file, "");
    const report = await examine(app, [await makeHealthyVenv(app)], { KIVI_CACHE_DIR: join(file, "cache") });
    expect(report.code).toBe(1);
    expect(report.check("cache-folder")).toMatchObject({
      status: "fail",
      hint: expect.stringContaining("KIVI_CACHE_DIR"),
    });
  });
});

describe("the plugin", () => {
  it("that is not installed fails, with the command that installs it", async () => {
    const venv = makeVenv();
    expect((await examine(app, [venv])).check("plugin")).toMatchObject({
      status: "fail",
      hint: `kivi install ${venv}`,
    });
  });

  it("with a changed and a missing file fails and names both", async () => {
    const venv = await makeHealthyVenv(app);
    const package_ = join(sitePackages(venv), "vllm_kivi");
    const changed = join(package_, "backend", "__init__.py");
    const missing = join(package_, "kernels", "decode.py");
    writeFileSync(changed, "# mine\n");
    rmSync(missing);
    const report = await examine(app, [venv, "--fix"]);
    expect(report.code).toBe(1);
    expect(report.check("files")).toMatchObject({
      status: "fail",
      message: expect.stringContaining(`${changed} (changed)`),
      hint: expect.stringContaining(`kivi install ${venv} --force`),
    });
    expect(report.check("files").message).toContain(`${missing} (missing)`);
    // Not for --fix to decide.
    expect(readFileSync(changed, "utf8")).toBe("# mine\n");
  });

  it("of another version fails, and still is examined", async () => {
    const venv = await makeHealthyVenv(app);
    const report = await examine(makeApp({ version: "0.2.0" }), [venv]);
    expect(report.code).toBe(1);
    expect(report.check("plugin")).toMatchObject({
      status: "fail",
      message: "vllm-kivi 0.1.0 is installed, and this kivi is 0.2.0",
    });
    expect(report.check("files").status).toBe("ok");
    expect(report.check("loading").status).toBe("ok");
  });

  it("whose RECORD is gone is a failure with the error's words", async () => {
    const venv = await makeHealthyVenv(app);
    rmSync(join(sitePackages(venv), "vllm_kivi-0.1.0.dist-info", "RECORD"));
    const report = await examine(app, [venv]);
    expect(report.check("plugin")).toMatchObject({
      status: "fail",
      message: expect.stringContaining("RECORD is missing"),
    });
    expect(report.check("files").status).toBe("skip");
  });

  it.each([
    [
      "does not register in a spawned worker",
      "_ok = True",
      "_ok = multiprocessing.parent_process() is None",
      '"registered": false',
    ],
    [
      "kills a spawned worker",
      "_ok = True",
      "os.kill(os.getpid(), 9)",
      "a spawned worker ended with exit code -9",
    ],
  ])("that %s fails", async (_, before, after, found) => {
    const venv = await makeHealthyVenv(app);
    const file = join(sitePackages(venv), "vllm_kivi", "__init__.py");
    const source = readFileSync(file, "utf8");
    writeFileSync(file, `import multiprocessing\n${source.replace(before, after)}`);
    const report = await examine(app, [venv]);
    expect(report.code).toBe(1);
    expect(report.check("loading")).toMatchObject({
      status: "fail",
      message: expect.stringContaining(found),
    });
  });

  it("that VLLM_PLUGINS leaves out fails", async () => {
    const venv = await makeHealthyVenv(app);
    const report = await examine(app, [venv], { VLLM_PLUGINS: "other" });
    expect(report.check("loading")).toMatchObject({
      status: "fail",
      hint: expect.stringContaining("VLLM_PLUGINS=other,kivi"),
    });
  });

  it("beside another with the same entry point fails", async () => {
    const venv = await makeHealthyVenv(app);
    addDistribution(venv, "otherkivi", "kivi");
    const report = await examine(app, [venv]);
    expect(report.code).toBe(1);
    expect(report.check("rivals")).toMatchObject({
      status: "fail",
      message: expect.stringContaining("otherkivi 1.0"),
      hint: expect.stringContaining("pip uninstall otherkivi"),
    });
    expect(report.check("loading").status).toBe("fail");
  });

  it("beside another that names its cache is a warning; beside any other it is not", async () => {
    const venv = await makeHealthyVenv(app);
    addDistribution(venv, "harmless", "harmless");
    const report = await examine(app, [venv]);
    expect(report.check("rivals")).toMatchObject({
      status: "ok",
      message: expect.stringContaining("harmless"),
    });
    addDistribution(venv, "claiming", "claiming", "DTYPES = ['kivi_k4v2']");
    addDistribution(venv, "patching", "patching", "Platform.get_attn_backend_cls = None");
    const claimed = await examine(app, [venv]);
    expect(claimed.code).toBe(0);
    expect(claimed.check("rivals")).toMatchObject({
      status: "warn",
      message: expect.stringMatching(
        /claiming 1\.0 names kivi_k4v2; patching 1\.0 names get_attn_backend_cls/,
      ),
    });
  });
});

it("another plugin's claims are looked for at every seam of this one", () => {
  const compat = join(repository, "python-plugin", "vllm_kivi", "compat");
  const sources = readdirSync(compat)
    .filter((name) => name.endsWith(".py"))
    .map((name) => readFileSync(join(compat, name), "utf8"));
  const wrapped = sources.flatMap((text) =>
    [...text.matchAll(/\bwrap\(\w+, "(\w+)"/g)].map(([, name]) => name),
  );
  expect(wrapped.length).toBeGreaterThan(5);
  expect([...SEAMS].sort()).toEqual(
    [...new Set([...wrapped, "CacheDType", "STR_DTYPE_TO_TORCH_DTYPE"])].sort(),
  );
});

describe("what killed installs leave", () => {
  it("fails with the command that repairs it, which --fix does", async () => {
    const venv = await makeHealthyVenv(app);
    const before = treeOf(venv);
    const slow = makeApp({ version: "0.2.0", plugin: "slow" });
    const flag = join(slow.home, "verifying");
    const child = slow.start(["install", venv, "--json"]);
    while (!existsSync(flag)) await sleep(20);

    // Under way it is not taken for a killed one.
    const busy = await examine(app, [venv, "--fix"]);
    expect(busy.check("leftovers")).toMatchObject({
      status: "warn",
      message: expect.stringContaining(`process ${child.pid}`),
    });
    expect(busy.check("loading").status).toBe("skip");

    child.kill("SIGKILL");
    await child;
    const killed = treeOf(venv);
    const report = await examine(app, [venv]);
    expect(report.code).toBe(1);
    expect(report.check("leftovers")).toMatchObject({ status: "fail", hint: `kivi doctor ${venv} --fix` });
    expect(report.check("plugin")).toMatchObject({
      status: "skip",
      message: "an install is under way or half done",
    });
    expect(treeOf(venv)).toEqual(killed);

    const fixed = await examine(app, [venv, "--fix"]);
    expect(fixed).toMatchObject({ code: 0, healthy: true });
    expect(fixed.check("leftovers")).toMatchObject({ status: "ok", fixed: true });
    expect(fixed.check("plugin").message).toBe("vllm-kivi 0.1.0");
    expect(treeOf(venv)).toEqual(before);
    expect((await examine(app, [venv])).check("leftovers").fixed).toBeUndefined();
  });

  it("a lock of a dead process and files moved aside are a warning, and removed by --fix", async () => {
    const venv = await makeHealthyVenv(app);
    const before = treeOf(venv);
    const site = sitePackages(venv);
    writeFileSync(join(site, ".kivi-lock"), await deadOwner());
    mkdirSync(join(site, ".kivi-work", "backup"), { recursive: true });
    writeFileSync(join(site, ".kivi-work", "done.json"), "{}");
    const report = await examine(app, [venv]);
    expect(report.code).toBe(0);
    expect(report.check("leftovers")).toMatchObject({
      status: "warn",
      message: expect.stringMatching(/the lock of process \d+ .*; files of an ended install/),
      hint: `kivi doctor ${venv} --fix`,
    });
    const fixed = await examine(app, [venv, "--fix"]);
    expect(fixed.check("leftovers")).toMatchObject({ status: "ok", fixed: true });
    expect(treeOf(venv)).toEqual(before);
  });
});
