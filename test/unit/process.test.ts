import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { Interruption } from "../../src/shared/errors.js";
import { type Command, createRunner, runChecked, showCommand } from "../../src/shared/process.js";
import { groupMembers } from "../../src/shared/process-group.js";
import { temporaryFolder } from "../helpers/cli.js";

const node = (script: string, ...args: string[]): Command => ({
  argv: [process.execPath, "-e", script, ...args],
});
const execaRunner = createRunner();
const shell = (script: string): Command => ({ argv: ["sh", "-c", script] });

/** A child that ignores TERM, with a grandchild that does too. */
const STUBBORN = shell(
  `trap '' TERM; sh -c 'trap "" TERM; while :; do sleep 0.1; done' & echo ready; while :; do sleep 0.1; done`,
);

describe("run", () => {
  it("gives both streams, the exit code, and whole lines in order", async () => {
    const lines: string[] = [];
    const script =
      "process.stdout.write('a\\nb'); process.stderr.write('x\\r50%\\r100%\\n'); process.exitCode = 3";
    const result = await execaRunner.run(node(script), {
      onLine: (stream, line) => lines.push(`${stream} ${line}`),
    });
    expect(result).toMatchObject({ exitCode: 3, stdout: "a\nb", timedOut: false });
    expect(lines.sort()).toEqual(["stderr 100%", "stderr 50%", "stderr x", "stdout a", "stdout b"]);
  });

  it("keeps characters that are split over chunks", async () => {
    const script =
      "const b = Buffer.from('é€'); process.stdout.write(b.subarray(0, 3)); setTimeout(() => process.stdout.write(b.subarray(3)), 50)";
    const result = await execaRunner.run(node(script));
    expect(result.stdout).toBe("é€");
    expect(result.tail).toEqual(["é€"]);
  });

  it("passes input and environment, and can leave names out", async () => {
    const script =
      "process.stdin.pipe(process.stdout); process.stderr.write(String(process.env.HOME) + process.env.X)";
    const result = await execaRunner.run(node(script), { input: "in", env: { HOME: undefined, X: "1" } });
    expect(result).toMatchObject({ stdout: "in", stderr: "undefined1" });
  });

  it("says that a program is not there", async () => {
    await expect(execaRunner.run({ argv: ["no-such-program"] })).rejects.toMatchObject({
      code: "command-not-started",
      exitCode: 3,
      message: expect.stringContaining("no-such-program"),
    });
  });

  it("ends the whole group when cancelled, also when TERM is ignored", async () => {
    const abort = new AbortController();
    const running = execaRunner.run(STUBBORN, {
      signal: abort.signal,
      graceMs: 200,
      onLine: () => abort.abort(new Interruption("SIGINT")),
    });
    await expect(running).rejects.toBeInstanceOf(Interruption);
  });

  it("ends what takes too long, and says so", async () => {
    const result = await execaRunner.run(shell("echo early; sleep 30"), { timeoutMs: 300 });
    expect(result).toMatchObject({ timedOut: true, stdout: "early\n" });
    expect(result.durationMs).toBeLessThan(10_000);
  });

  it("makes one error of a failure, with its command and last words", async () => {
    const running = runChecked(execaRunner, shell("echo out; echo 'no space' >&2; exit 7"), {
      what: "Building",
    });
    await expect(running).rejects.toMatchObject({ code: "command-failed", exitCode: 4 });
    await expect(running).rejects.toThrow(
      /^Building failed: sh -c '.*' exited with code 7\.\n(out\nno space|no space\nout)$/,
    );
  });
});

describe("start", () => {
  it("stops child and grandchild with KILL when TERM is not enough, and nothing is left", async () => {
    let ready = false;
    const child = execaRunner.start(STUBBORN, { onLine: () => (ready = true) });
    while (!ready) await sleep(10);
    expect(groupMembers(child.pid).length).toBeGreaterThan(1);
    const report = await child.stop({ graceMs: 300 });
    expect(report).toEqual({ killed: true, left: [] });
    expect(child.isAlive()).toBe(false);
    expect((await child.exited).signal).toBe("SIGKILL");
    expect(groupMembers(child.pid)).toEqual([]);
  });

  it("lets a polite child go without KILL, and writes a log without colours", async () => {
    const logFile = join(temporaryFolder(), "logs", "child.log");
    const child = execaRunner.start(shell("printf '\\033[31mred\\033[0m\\n'; while :; do sleep 0.1; done"), {
      logFile,
    });
    while (child.tail().length === 0) await sleep(10);
    expect(await child.stop({ graceMs: 5_000 })).toEqual({ killed: false, left: [] });
    expect((await child.exited).signal).toBe("SIGTERM");
    await sleep(50);
    expect(readFileSync(logFile, "utf8")).toBe("red\n");
  });

  it("keeps no more than the last 200 lines", async () => {
    const child = execaRunner.start(shell("seq 1 1000"));
    const { tail } = await child.exited;
    expect(tail).toHaveLength(200);
    expect(tail.at(-1)).toBe("1000");
  });
});

describe("showCommand", () => {
  it("quotes what a shell would split or expand", () => {
    expect(showCommand(["pip", "install", "vllm>=0.26", "a b", "it's", "--x=y"])).toBe(
      `pip install 'vllm>=0.26' 'a b' 'it'\\''s' --x=y`,
    );
  });
});
