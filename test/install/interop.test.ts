import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { execa, execaSync } from "execa";
import { describe, expect, it } from "vitest";
import { bareEnvironment, kivi, repository, temporaryFolder } from "../helpers/cli.js";
import { makeApp, makeVenv } from "../helpers/stand-in.js";
import { treeOf } from "../helpers/tree.js";

const app = makeApp();
const hasUv = execaSync("uv", ["--version"], { reject: false }).exitCode === 0;

/** Python in a bare environment that writes no bytecode, so that trees can be compared. */
async function python(venv: string, ...args: string[]): Promise<string> {
  const { stdout } = await execa(join(venv, "bin", "python"), ["-B", ...args], {
    env: bareEnvironment(app.home, { PIP_DISABLE_PIP_VERSION_CHECK: "1" }),
    extendEnv: false,
  });
  return stdout;
}

const READ_WHEEL = `
import email, json, sys, zipfile
archive = zipfile.ZipFile(sys.argv[1])
assert archive.testzip() is None
info = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA")).split("/")[0]
message = email.message_from_bytes(archive.read(info + "/METADATA"))
json.dump({
    "package": {n: archive.read(n).decode() for n in archive.namelist() if not n.startswith(info)},
    "info": sorted(n for n in archive.namelist() if n.startswith(info)),
    "metadata": sorted([*message.items(), ("Body", message.get_payload().strip())]),
    "entry_points": archive.read(info + "/entry_points.txt").decode().split(),
    "license": archive.read(info + "/licenses/LICENSE").decode(),
}, sys.stdout)
`;

describe("with pip", () => {
  it("the plugin is listed, passes pip check, and pip uninstall removes it without a trace", async () => {
    const venv = makeVenv({ pip: true });
    const before = treeOf(venv);
    expect((await app.run(["install", venv])).code).toBe(0);
    const list = JSON.parse(await python(venv, "-m", "pip", "list", "--format", "json"));
    expect(list).toContainEqual(expect.objectContaining({ name: "vllm-kivi", version: "0.1.0" }));
    await python(venv, "-m", "pip", "check");
    if (hasUv) {
      const { stdout } = await execa("uv", ["pip", "list", "--python", join(venv, "bin", "python")]);
      expect(stdout).toMatch(/^vllm-kivi +0\.1\.0$/m);
    }
    await python(venv, "-m", "pip", "uninstall", "--yes", "vllm-kivi");
    expect(treeOf(venv)).toEqual(before);
  });

  it("kivi upgrades and removes what pip installed from the written wheel", async () => {
    const venv = makeVenv({ pip: true });
    const before = treeOf(venv);
    const project = join(temporaryFolder(), "project");
    expect((await app.run(["generate", project, "--wheel"])).code).toBe(0);
    const wheel = join(project, "dist", "vllm_kivi-0.1.0-py3-none-any.whl");
    await python(venv, "-m", "pip", "install", "--no-index", wheel);
    const install = await app.run(["install", venv, "--json"]);
    expect(JSON.parse(install.stdout)).toMatchObject({ outcome: "reinstalled", previous: "0.1.0" });
    expect((await app.run(["uninstall", venv])).code).toBe(0);
    await python(venv, "-m", "pip", "install", "--no-index", wheel);
    expect((await app.run(["uninstall", venv])).code).toBe(0);
    expect(treeOf(venv)).toEqual(before);
  });
});

describe("kivi generate", () => {
  it("writes a project that builds by itself into the wheel that kivi makes", async () => {
    const home = temporaryFolder();
    const project = join(home, "project");
    const result = await kivi(["generate", project, "--wheel", "--json"], { home });
    expect(result.code).toBe(0);
    const { version } = JSON.parse(readFileSync(join(repository, "package.json"), "utf8"));
    const name = `vllm_kivi-${version}-py3-none-any.whl`;
    const maker = makeVenv({ pip: true, vllm: false });
    const built = join(home, "built");
    await python(maker, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", built, project);
    const ours = JSON.parse(await python(maker, "-c", READ_WHEEL, join(project, "dist", name)));
    const theirs = JSON.parse(await python(maker, "-c", READ_WHEEL, join(built, name)));
    expect(Object.keys(ours.package)).toContain("vllm_kivi/__init__.py");
    expect(ours).toEqual(theirs);
  });

  it("gives the same bytes every time", async () => {
    const home = temporaryFolder();
    const wheels = await Promise.all(
      ["a", "b"].map(async (name) => {
        expect((await kivi(["generate", name, "--wheel"], { home })).code).toBe(0);
        const dist = join(home, name, "dist");
        return readFileSync(join(dist, readdirSync(dist)[0] as string));
      }),
    );
    expect(wheels[0]?.equals(wheels[1] as Buffer)).toBe(true);
  });

  it("does not touch a folder that holds something", async () => {
    const home = temporaryFolder();
    mkdirSync(join(home, "full"));
    writeFileSync(join(home, "full", "mine.txt"), "mine");
    const result = await kivi(["generate", "full", "--json"], { home });
    expect(result.code).toBe(2);
    expect(JSON.parse(result.stdout).error.message).toContain("mine.txt");
    expect(readdirSync(join(home, "full"))).toEqual(["mine.txt"]);
    expect((await kivi(["generate", "new", "--dry-run"], { home })).code).toBe(0);
    expect(readdirSync(home)).not.toContain("new");
  });
});
