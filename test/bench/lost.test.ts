/** What a run keeps when kivi is killed without a word, and when the disk is full; only the workers are stand-ins. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { describe, expect, it } from "vitest";
import { type BenchResult, benchResultSchema } from "../../src/core/bench/index.js";
import { bareEnvironment, kivi, repository, temporaryFolder } from "../helpers/cli.js";
import { makeMeasuredVenv } from "../helpers/measured-venv.js";
import { canMount } from "../helpers/mounts.js";

const home = temporaryFolder();
const model = join(home, "model");
mkdirSync(model);
for (const name of ["config.json", "tokenizer.json"]) writeFileSync(join(model, name), "{}");

function saved(path: string): BenchResult {
  return benchResultSchema.parse(JSON.parse(readFileSync(path, "utf8")));
}

const words = (venv: string, output: string, caches: string, ...more: string[]): string[] => [
  ...[
    "bench",
    model,
    "--venv",
    venv,
    "--suites",
    "capacity",
    "--caches",
    caches,
    "--output",
    output,
    ...more,
  ],
];

function running(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

describe("a kivi that is killed", () => {
  it("loses the cell it was at, and --resume measures that one alone", async () => {
    let hangs = true;
    const venv = makeMeasuredVenv(join(home, "venv"), (cell) => ({ ...cell, hangs }));
    const output = join(home, "result.json");
    const child = execa(
      process.execPath,
      [join(repository, "bin", "kivi.js"), ...words(venv, output, "bf16,k4v4")],
      { cwd: home, env: bareEnvironment(home), extendEnv: false, reject: false, stdin: "ignore" },
    );
    while (!existsSync(join(venv, "hanging"))) await sleep(20);
    const worker = Number(
      (await execa("pgrep", ["-f", `${venv}.*k4v4\\.spec\\.json`])).stdout.trim().split("\n")[0],
    );
    child.kill("SIGKILL");
    expect((await child).signal).toBe("SIGKILL");
    if (running(worker)) process.kill(worker, "SIGKILL");

    const before = saved(output);
    expect(before).toMatchObject({ complete: false, cells: [{ cache: "bf16", status: "ok" }] });
    hangs = false;
    const cell = JSON.parse(readFileSync(join(venv, "results", "k4v4.json"), "utf8"));
    writeFileSync(join(venv, "results", "k4v4.json"), JSON.stringify({ ...cell, hangs }));
    const again = await kivi(words(venv, output, "bf16,k4v4", "--resume"), { home });
    expect(again.code, again.stderr).toBe(0);
    const after = saved(output);
    expect(after).toMatchObject({
      complete: true,
      cells: [{ cache: "bf16" }, { cache: "k4v4", status: "ok" }],
    });
    expect(after.cells[0]).toEqual(before.cells[0]);
  });
});

describe.skipIf(!canMount)("a full disk", () => {
  /** Runs kivi twice on a small file system: for bf16, and for k4v4 too when nothing is left of it. */
  async function full(name: string, environment: string, folder: string) {
    const disk = join(home, name);
    mkdirSync(disk);
    const kept = join(home, `${name}.json`);
    const venv = makeMeasuredVenv(join(home, `${name}-venv`));
    const output = join(folder === "" ? disk : home, `${name}-result.json`);
    const run = (...more: string[]) =>
      [process.execPath, join(repository, "bin", "kivi.js"), ...more].map((word) => `'${word}'`).join(" ");
    const script = [
      "code=0",
      `mount -t tmpfs -o size=256k none '${disk}'`,
      `${environment} ${run(...words(venv, output, "bf16"))} >&2`,
      `dd if=/dev/zero of='${disk}/rest' bs=1k 2> /dev/null || true`,
      `${environment} ${run(...words(venv, output, "bf16,k4v4", "--resume"), "--json")} || code=$?`,
      `cp '${output}' '${kept}'`,
      "exit $code",
    ].join("\n");
    const ended = await execa("unshare", ["--mount", "bash", "-e", "-c", script], {
      env: bareEnvironment(home),
      extendEnv: false,
      reject: false,
    });
    return { ...ended, document: JSON.parse(ended.stdout), result: saved(kept) };
  }

  it("under the result is told, and leaves the cells that were saved", async () => {
    const { exitCode, document, result } = await full("small", "", "");
    expect(exitCode).toBe(3);
    expect(document.error).toMatchObject({
      code: "disk-full",
      message: expect.stringMatching(/The disk is full: .*small-result\.json could not be written \(ENOSPC/),
      hint: expect.stringContaining("--resume"),
    });
    expect(result).toMatchObject({ complete: true, cells: [{ cache: "bf16", status: "ok" }] });
  });

  it("under kivi's own folder is told too", async () => {
    const { exitCode, document, result } = await full("logs", `KIVI_CACHE_DIR='${join(home, "logs")}'`, home);
    expect(exitCode).toBe(3);
    expect(document.error).toMatchObject({ code: "disk-full" });
    expect(result.cells.map(({ cache }) => cache)).toEqual(["bf16"]);
  });
});
