import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { execa } from "execa";
import { afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { z } from "zod";
import { freePort } from "../../src/core/server/index.js";
import { bareEnvironment, kivi, repository, temporaryFolder } from "../helpers/cli.js";
import { installPlugin } from "../helpers/installed-plugin.js";
import { listening, makeModel, makeVenv, processes } from "./helpers.js";

const PURELIB = "import sysconfig; print(sysconfig.get_path('purelib'))";
const folder = temporaryFolder();
const venv = join(folder, "venv");

beforeAll(() => {
  makeVenv(venv);
});

interface Started {
  child: ChildProcess;
  /** Of kivi. */
  argv: string[];
  port: number;
  pids: string;
  stdout: () => string;
  stderr: () => string;
  ready: Promise<void>;
  ended: Promise<{ code: number | null; seconds: number }>;
}

let runs = 0;
const started: Started[] = [];

/** A failed test must not leave anybody behind. */
afterEach(() => {
  for (const run of started.splice(0)) {
    run.child.kill("SIGKILL");
    for (const pid of processes(run.pids).running) process.kill(pid, "SIGKILL");
  }
});

async function serve(
  behaviour: string,
  options: string[] = [],
  more: { words?: string[]; env?: Record<string, string> } = {},
): Promise<Started> {
  const model = makeModel(folder, behaviour);
  const port = await freePort("127.0.0.1");
  runs += 1;
  const pids = join(folder, `pids-${runs}`);
  const startedAt = Date.now();
  const argv = ["serve", model, "--venv", venv, "--port", String(port), ...options];
  argv.push("--", "--pids", pids, ...(more.words ?? []));
  const child = spawn(process.execPath, [join(repository, "bin", "kivi.js"), ...argv], {
    cwd: folder,
    env: more.env ?? bareEnvironment(folder),
    stdio: ["ignore", "pipe", "pipe"],
  });
  let stdout = "";
  let stderr = "";
  let onReady: () => void;
  const ready = new Promise<void>((resolve) => {
    onReady = resolve;
  });
  child.stdout?.on("data", (chunk) => {
    stdout += chunk;
    if (stdout.includes("Ready after")) onReady();
  });
  child.stderr?.on("data", (chunk) => {
    stderr += chunk;
  });
  const ended = new Promise<{ code: number | null; seconds: number }>((resolve) =>
    child.on("close", (code) => resolve({ code, seconds: (Date.now() - startedAt) / 1000 })),
  );
  const run = { child, argv, port, pids, stdout: () => stdout, stderr: () => stderr, ready, ended };
  started.push(run);
  return run;
}

/** Where the system says that something listens on a port, by IPv4 and IPv6. */
function addresses(port: number): string[] {
  const end = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  return ["tcp", "tcp6"].flatMap((name) =>
    readFileSync(`/proc/net/${name}`, "utf8")
      .split("\n")
      .map((line) => line.trim().split(/\s+/))
      .filter(([, local, , state]) => local?.endsWith(end) && state === "0A")
      .map(
        ([, local = ""]) =>
          local
            .slice(0, -end.length)
            .match(/../g)
            ?.reverse()
            .map((byte) => parseInt(byte, 16))
            .join(".") ?? "",
      ),
  );
}

async function expectNothingLeft(run: Started, count: number): Promise<void> {
  expect(processes(run.pids)).toEqual({ count, running: [] });
  expect(await listening(run.port)).toBe(false);
}

describe("kivi serve", () => {
  it("says what the cache holds and ends with 143 on SIGTERM", async () => {
    const run = await serve("good");
    await run.ready;
    expect((await fetch(`http://127.0.0.1:${run.port}/health`)).ok).toBe(true);
    expect(run.stdout()).toContain(`http://127.0.0.1:${run.port}/v1`);
    expect(addresses(run.port)).toEqual(["127.0.0.1"]);
    expect(run.stdout()).toContain("6,165 bytes per token, bf16 23,040 (3.74x)");
    expect(run.stdout()).toContain("12,800, bf16 3,840 in the same memory, staging included (3.33x)");
    expect(run.stdout()).toContain("22.5 MiB for 8 sequences");
    run.child.kill("SIGTERM");
    expect((await run.ended).code).toBe(143);
    await expectNothingLeft(run, 1);
    const log = /log\s+(\/.*\.log)/.exec(run.stdout())?.[1] ?? "";
    expect(readFileSync(log, "utf8")).toContain("KIVI_REPORT");
  });

  it("hands secrets over out of sight: not in the list of processes, logs or what it prints", async () => {
    const words = ["--api-key", "sk-0123456789", "--hf_token=hf_abcdefghij"];
    const env = bareEnvironment(folder, { KIVI_CACHE_DIR: join(folder, "secrets") });
    const run = await serve("tells", ["--verbose"], { words, env });
    await run.ready;
    const began = JSON.parse(readFileSync(`${run.pids}.json`, "utf8")) as Record<"argv" | "env", object>;
    expect(began.env).toMatchObject({ VLLM_API_KEY: "sk-0123456789", HF_TOKEN: "hf_abcdefghij" });
    const titles = [run.child.pid, ...processes(run.pids).running].map((pid) =>
      readFileSync(`/proc/${pid}/cmdline`, "utf8"),
    );
    expect(titles).toHaveLength(2);
    expect(titles[0]).toContain("--api-key '***' '--hf_token=***'");
    run.child.kill("SIGTERM");
    await run.ended;
    const logs = readdirSync(join(folder, "secrets", "logs")).map((name) =>
      readFileSync(join(folder, "secrets", "logs", name), "utf8"),
    );
    expect(logs).toHaveLength(2);
    expect(logs.join("\n")).toContain("INFO non-default args: *** ***");
    const seen = [...titles, ...logs, run.stdout(), run.stderr(), JSON.stringify(began.argv)].join("\n");
    expect(seen).not.toMatch(/0123456789|abcdefghij/);
  });

  it("shows no secret in a dry run, and refuses those that it cannot hide", async () => {
    const model = makeModel(folder, "good");
    const port = String(await freePort("127.0.0.1"));
    const words = ["serve", model, "--venv", venv, "--port", port, "--dry-run"];
    const shown = await kivi([...words, "--json", "--", "--api-k", "key"], { home: folder });
    expect(JSON.parse(shown.stdout)).toMatchObject({ env: { VLLM_API_KEY: "***" } });
    expect(shown.stdout).not.toContain('"key"');
    const text = await kivi([...words, "--", "--api-key", "key"], { home: folder });
    expect(text).toMatchObject({ code: 0, stderr: expect.stringContaining("VLLM_API_KEY is set") });
    expect(text.stdout).not.toContain("key");
    for (const [code, ...refused] of [
      ["several-secrets", "--api-key", "first-key", "second-key"],
      ["secret-missing", "--api-key"],
      ["secret-missing", "--api-key="],
    ] as const) {
      const { code: exit, stdout } = await kivi([...words, "--json", "--", ...refused], { home: folder });
      expect(exit).toBe(2);
      expect(JSON.parse(stdout).error.code).toBe(code);
      expect(stdout).not.toMatch(/first-key|second-key/);
    }
  });

  it("goes on where its log cannot be written, and says so", async () => {
    const run = await serve("good", ["--log-file", "/dev/full"]);
    await run.ready;
    expect((await fetch(`http://127.0.0.1:${run.port}/health`)).ok).toBe(true);
    run.child.kill("SIGTERM");
    expect((await run.ended).code).toBe(143);
    expect(run.stderr().match(/goes on without its log: ENOSPC/g)).toHaveLength(1);
    await expectNothingLeft(run, 1);
  });

  it("adds the caches of engines side by side", async () => {
    const run = await serve("engines");
    await run.ready;
    expect(run.stdout()).toContain("30 layers, 2 engines of together 2 ranks");
    expect(run.stdout()).toContain("6,165 bytes per token, bf16 23,040 (3.74x)");
    expect(run.stdout()).toContain("25,600, bf16 7,680 in the same memory, staging included (3.33x)");
    expect(run.stdout()).toContain("45.0 MiB for 16 sequences");
  });

  it.each([
    ["deaf", 3, "a leader and children that ignore TERM"],
    ["daemon", 2, "a grandchild in its own session, re-parented, holding the pipes"],
    ["nameless", 2, "a child in its own session without the mark"],
  ])("stops %s (%d processes): %s", async (behaviour, count) => {
    const run = await serve(behaviour);
    await run.ready;
    // The server may be ready before the last of its children has written itself down.
    await vi.waitFor(() => expect(processes(run.pids).running).toHaveLength(count));
    run.child.kill("SIGINT");
    expect((await run.ended).code).toBe(130);
    await expectNothingLeft(run, count);
  });

  it("kills at once on a second Ctrl-C", async () => {
    const run = await serve("deaf");
    await run.ready;
    const asked = Date.now();
    run.child.kill("SIGINT");
    await new Promise((resolve) => setTimeout(resolve, 500));
    run.child.kill("SIGINT");
    expect((await run.ended).code).toBe(130);
    expect(Date.now() - asked).toBeLessThan(10_000);
    await expectNothingLeft(run, 3);
  });

  it("stops a start that is interrupted", async () => {
    const run = await serve("stuck");
    while (processes(run.pids).count === 0) await new Promise((resolve) => setTimeout(resolve, 50));
    run.child.kill("SIGTERM");
    expect((await run.ended).code).toBe(143);
    await expectNothingLeft(run, 1);
  });

  it("exits 4 with the last lines and the log when the server dies, and ends who outlived it", async () => {
    const run = await serve("dies");
    expect((await run.ended).code).toBe(4);
    expect(run.stderr()).toContain("The server ended by itself, with code 7");
    expect(run.stderr()).toContain("something broke");
    expect(run.stderr()).toMatch(/server log: \/.*\.log/);
    await expectNothingLeft(run, 2);
  });

  it("names the cause of a failed start and what to run next", async () => {
    const run = await serve("fails");
    expect((await run.ended).code).toBe(3);
    expect(run.stderr()).toContain("not enough memory for the model and its cache (No available memory");
    expect(run.stderr()).toMatch(/next: .*--gpu-memory-utilization/);
    expect(run.stdout()).toBe("");
    await expectNothingLeft(run, 1);
  });

  it("fails when no worker reports a KIVI cache", async () => {
    const run = await serve("silent");
    expect((await run.ended).code).toBe(4);
    expect(run.stderr()).toContain("KIVI is not active");
    await expectNothingLeft(run, 1);
  });

  it("gives up at the deadline", async () => {
    const run = await serve("stuck", ["--timeout", "2"]);
    expect((await run.ended).code).toBe(4);
    expect(run.stderr()).toContain("was not ready after 2.0 s");
    expect(run.stderr()).toContain("--timeout 4");
    await expectNothingLeft(run, 1);
  });
});

describe("kivi serve refuses", () => {
  const model = (): string => makeModel(folder, "good");
  const json = async (args: string[], env: Record<string, string> = {}) => {
    const { code, stdout } = await kivi(["serve", ...args, "--json"], { home: folder, env });
    return { code, ...(JSON.parse(stdout) as { error: { code: string; message: string; hint: string } }) };
  };

  it("a port that is taken", async () => {
    const other = createServer((_, response) => response.end()).listen(0, "127.0.0.1");
    await new Promise((resolve) => other.once("listening", resolve));
    const { port } = other.address() as { port: number };
    const found = await json([model(), "--venv", venv, "--port", String(port)]);
    other.close();
    expect(found).toMatchObject({ code: 3, error: { code: "port-in-use" } });
    expect(found.error.hint).toContain(`--port ${port + 1}`);
  });

  it("an environment without the plugin, without vLLM, or with another vLLM", async () => {
    const bare = makeVenv(join(folder, "bare"), { plugin: false });
    expect(await json([model(), "--venv", bare])).toMatchObject({
      code: 3,
      error: { code: "plugin-missing", hint: `kivi install ${bare}` },
    });
    const empty = makeVenv(join(folder, "empty"), { vllm: "" });
    expect(await json([model(), "--venv", empty])).toMatchObject({
      code: 3,
      error: { code: "vllm-missing" },
    });
    const old = makeVenv(join(folder, "old"), { vllm: "0.11.0" });
    expect(await json([model(), "--venv", old])).toMatchObject({
      code: 3,
      error: { code: "vllm-unsupported" },
    });
  });

  it.each([
    ["0.16.0+cpu", "in bfloat16 its logits are further from the reference"],
    ["0.18.1+cpu", "LD_PRELOAD"],
  ])("vLLM %s, with the reason", async (vllm, reason) => {
    const tried = makeVenv(join(folder, vllm), { vllm });
    const { code, error } = await json([model(), "--venv", tried]);
    expect({ code, error: error.code }).toEqual({ code: 3, error: "vllm-unsupported" });
    expect(error.message).toContain(reason);
  });

  it("a plugin whose files are not those that were installed", async () => {
    const damaged = makeVenv(join(folder, "damaged"), { plugin: false });
    const site = execFileSync(join(damaged, "bin", "python"), ["-c", PURELIB], { encoding: "utf8" }).trim();
    const file = installPlugin(site);
    const start = () => json([model(), "--venv", damaged, "--dry-run"]);
    expect(await start()).toMatchObject({ code: 0 });
    writeFileSync(file, "wrong\n");
    expect(await start()).toMatchObject({
      code: 3,
      error: {
        code: "plugin-damaged",
        message: expect.stringContaining(`${file} (changed)`),
        hint: expect.stringContaining(`kivi install ${damaged} --force`),
      },
    });
    rmSync(file);
    expect((await start()).error).toMatchObject({ code: "plugin-damaged", hint: `kivi install ${damaged}` });
  });

  it("an environment that was moved, and one whose Python was replaced", async () => {
    const made = makeVenv(join(folder, "made"));
    rmSync(join(made, "bin", "vllm"));
    writeFileSync(join(made, "bin", "vllm"), `#!${made}/bin/python3\n`, { mode: 0o755 });
    const moved = join(folder, "moved");
    renameSync(made, moved);
    expect(await json([model(), "--venv", moved])).toMatchObject({
      code: 3,
      error: {
        code: "venv-moved",
        message: expect.stringContaining(`made in ${made}`),
        hint: expect.stringContaining("Move it back"),
      },
    });
    const [version = ""] = readdirSync(join(moved, "lib"));
    renameSync(join(moved, "lib", version), join(moved, "lib", "python3.5"));
    const replaced = await json([model(), "--venv", moved]);
    expect(replaced).toMatchObject({ code: 3, error: { code: "python-upgraded" } });
    expect(replaced.error.message).toContain(join(moved, "lib", "python3.5"));
    expect(replaced.error.hint).toContain(`rm -r ${moved} && kivi install --create ${moved}`);
    const doctor = await kivi(["doctor", moved], { home: folder });
    expect({ code: doctor.code, out: doctor.stdout }).toMatchObject({
      code: 1,
      out: expect.stringContaining("python3.5"),
    });
  });

  it("VLLM_PLUGINS that leaves the plugin out", async () => {
    const found = await json([model(), "--venv", venv], { VLLM_PLUGINS: "other" });
    expect(found).toMatchObject({ code: 3 });
    expect(found.error.message).toContain("VLLM_PLUGINS");
  });

  it.each([
    [["./nowhere"], "model-not-found"],
    [["good", "--", "--kv-cache-dtype", "fp8"], "conflicting-argument"],
    [["good", "--", "--kv_cache_dtype=fp8"], "conflicting-argument"],
    [["good", "--", "--additional-config", '{"kivi": {}}'], "conflicting-argument"],
    [["good", "--", "--additional-config", "{"], "bad-additional-config"],
    [["good", "--", "--uds", "x"], "unsupported-argument"],
    [["good", "--preset", "k4v3"], "invalid-value"],
    [["good", "--port", "70000"], "invalid-value"],
    [["good", "--kivi-audit", "1.5"], "invalid-value"],
    [["good", "--key-group", "NaN"], "invalid-value"],
    [["good", "--key-group", "48"], "invalid-value"],
    [["good", "--value-group", "12"], "invalid-value"],
    [["good", "--key-window", "4097"], "invalid-value"],
    [["good", "--value-window", "-1"], "invalid-value"],
    [["good", "--value-residual", "48"], "invalid-value"],
    [["good", "--value-residual", "0"], "invalid-value"],
    [["good", "--preset", "k2v2", "--value-residual", "64"], "invalid-value"],
    [["good", "--key-group", "32", "--value-residual", "64"], "invalid-value"],
    [["good", "--timeout", "0"], "invalid-value"],
  ])("%j as %s", async ([name = "", ...rest], code) => {
    model();
    const at = rest.indexOf("--");
    const [own, words] = at < 0 ? [rest, []] : [rest.slice(0, at), rest.slice(at)];
    const args = ["serve", name, "--venv", venv, ...own, "--json", ...words];
    const { code: exit, stdout } = await kivi(args, { home: folder });
    expect({ exit, code: JSON.parse(stdout).error.code }).toEqual({ exit: 2, code });
  });

  it.each([["--window=64"], ["--window"]])("%s with the names of its successors", async (flag) => {
    const { code, error } = await json([model(), "--venv", venv, flag]);
    expect({ code, error: error.code }).toEqual({ code: 2, error: "invalid-value" });
    expect(error.message).toMatch(/^--window: .*--key-window.*--value-window/);
  });

  it("a host that is not of this machine", async () => {
    expect(await json([model(), "--venv", venv, "--host", "192.0.2.77"])).toMatchObject({
      code: 2,
      error: { code: "host-not-local" },
    });
  });
});

describe("kivi serve --dry-run", () => {
  const dryRun = async (args: string[]) => {
    const { code, stdout } = await kivi(["serve", ...args], { home: folder });
    expect(code).toBe(0);
    return stdout;
  };

  it("shows the command line that would run", async () => {
    const model = makeModel(folder, "good");
    const settings = [
      "--key-group",
      "64",
      "--key-window",
      "32",
      "--value-residual",
      "16",
      "--value-window",
      "0",
      "--no-rotation",
      "--clipping",
      "--kivi-audit",
      "0.25",
    ];
    const port = await freePort("127.0.0.1");
    const own = ["--venv", venv, "--port", String(port), "--preset", "k4v2", ...settings, "--dry-run"];
    const words = ["--", "--additional-config", '{"a":1}', "--tensor-parallel-size", "2", "-dp=2"];
    const config =
      '{"a":1,"kivi":{"key_group":64,"key_window":32,"value_residual":16,"value_window":0,"rotation":false,"clipping":true,"audit":0.25}}';
    expect(await dryRun([model, ...own, ...words])).toBe(
      `${venv}/bin/vllm serve ${model} --kv-cache-dtype kivi_k4v2 --host 127.0.0.1 --port ${port} --tensor-parallel-size 2 -dp=2 --additional-config '${config}'`,
    );
  });

  it("shows what a start then runs, word for word and with the same environment", async () => {
    const words = ["--served-model-name", "it's $HOME", "", "a\nb", "--speculative-config", '{"a": "*"}'];
    const environment = { ...bareEnvironment(folder), PYTHONDONTWRITEBYTECODE: "1", RAY_DEDUP_LOGS: "1" };
    const run = await serve("good", ["--key-group", "64"], { words, env: environment });
    await run.ready;
    run.child.kill("SIGTERM");
    await run.ended;
    const began = z
      .object({ argv: z.array(z.string()), env: z.record(z.string(), z.string()) })
      .parse(JSON.parse(readFileSync(`${run.pids}.json`, "utf8")));

    const dashes = run.argv.indexOf("--");
    const again = (...options: string[]) => [
      ...run.argv.slice(1, dashes),
      ...options,
      ...run.argv.slice(dashes),
    ];
    const shown = z
      .strictObject({
        dryRun: z.literal(true),
        argv: z.array(z.string()),
        env: z.record(z.string(), z.string()),
        unset: z.array(z.string()),
      })
      .parse(JSON.parse(await dryRun(again("--dry-run", "--json"))));
    expect(shown.argv).toEqual(began.argv);
    const kept = Object.entries(environment).filter(([name]) => !shown.unset.includes(name));
    const { KIVI_SERVER_ID: mark, VLLM_RPC_BASE_PATH: sockets, ...env } = began.env;
    expect(mark).toMatch(/^[\da-f-]{36}$/);
    expect(sockets).toContain("kivi-serve-");
    expect(existsSync(sockets as string)).toBe(false);
    expect(env).toEqual({ ...Object.fromEntries(kept), ...shown.env });

    const text = await dryRun(again("--dry-run"));
    const { stdout } = await execa("sh", ["-c", `printf '%s\\0' ${text}`]);
    expect(stdout.split("\0").slice(0, -1)).toEqual(began.argv);
    expect(await dryRun(again("--print"))).toBe(text);
  });

  it("refuses what a start would refuse", async () => {
    const model = makeModel(folder, "good");
    const refusal = async (args: string[]) => {
      const { code, stdout } = await kivi(["serve", model, ...args, "--dry-run", "--json"], { home: folder });
      return { code, error: (JSON.parse(stdout) as { error: { code: string } }).error.code };
    };
    const bare = makeVenv(join(folder, "plain"), { plugin: false });
    expect(await refusal(["--venv", bare])).toEqual({ code: 3, error: "plugin-missing" });
    const other = createServer((_, response) => response.end()).listen(0, "127.0.0.1");
    await new Promise((resolve) => other.once("listening", resolve));
    const { port } = other.address() as { port: number };
    const found = await refusal(["--venv", venv, "--port", String(port)]);
    other.close();
    expect(found).toEqual({ code: 3, error: "port-in-use" });
  });
});
