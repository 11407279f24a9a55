/**
 * What happens to a running server, with real vLLM: a part of it is killed, stops answering, or finds its port taken.
 * After each: an error that says so, exit code 4, and nothing left; the next test's start is the next command.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { clientCommand, readClientResult } from "../../src/core/bench/serving/client.js";
import { sharedMemoryOf } from "../../src/core/server/shared-memory.js";
import { bareEnvironment, repository, temporaryFolder } from "../helpers/cli.js";
import { type Process, processes, refused } from "../helpers/processes.js";
import { complete, type RealServer, realVenv, serveTiny, startTiny } from "../helpers/real-server.js";

const START_MS = 400_000;
const home = temporaryFolder();
let running: RealServer | undefined;

/** A failed test must not leave anybody behind. */
afterEach(() => {
  for (const { pid } of running?.family() ?? []) process.kill(pid, "SIGKILL");
  running?.child.kill("SIGKILL");
  running = undefined;
});

/** A folder for what the server's processes leave outside of themselves, its name short: sockets are in it. */
const scratch = mkdtempSync(join(tmpdir(), "kf-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

interface Started {
  readonly server: RealServer;
  readonly family: readonly Process[];
  /** Shared memory of its processes. */
  readonly segments: ReadonlySet<string>;
}

async function serve(env: Record<string, string> = {}): Promise<Started> {
  running = await serveTiny(home, { flags: ["--kivi-audit", "0.1"], env: { TMPDIR: scratch, ...env } });
  expect((await complete(running.url, 150, 20)).status).toBe(200);
  const family = running.family();
  const segments = new Set(sharedMemoryOf(family.map(({ pid }) => pid)));
  expect(segments.size).toBeGreaterThan(0);
  return { server: running, family, segments };
}

function part(family: readonly Process[], name: string): number {
  const found = family.find(({ argv }) => argv[0]?.includes(name));
  if (found === undefined)
    throw new Error(`no ${name} among ${family.map(({ argv }) => argv[0]).join(", ")}`);
  return found.pid;
}

/** No process, port, socket or shared memory; a compiler's cache is meant to stay. */
async function expectNothingLeft({ server, family, segments }: Started): Promise<void> {
  const living = new Set(processes().map(({ pid }) => pid));
  expect(family.filter(({ pid }) => living.has(pid))).toEqual([]);
  expect(await refused(server.port)).toBe(true);
  expect(readdirSync(scratch).filter((name) => !name.startsWith("torchinductor_"))).toEqual([]);
  expect([...segments].filter((path) => existsSync(path))).toEqual([]);
}

/** vLLM's load client, as `kivi bench` starts it, with prompts longer than the server takes. */
async function overload({ url }: RealServer): Promise<string> {
  const about = {
    python: join(realVenv as string, "bin", "python"),
    script: join(repository, "bench", "client.py"),
    url,
    model: join(home, "model"),
    folder: home,
    file: "refused.json",
  };
  const sizes = { inputTokens: 2000, outputTokens: 8 };
  const [program, ...words] = clientCommand({ ...about, rate: "inf", prompts: 2, seed: 0 }, sizes);
  await execa(program, words, { env: bareEnvironment(home, { HF_HUB_OFFLINE: "1" }), extendEnv: false });
  return readFileSync(join(home, about.file), "utf8");
}

async function expectErrorAndNothingLeft(started: Started): Promise<void> {
  const { server } = started;
  expect(await server.ended).toEqual({ code: 4, signal: null });
  expect(server.stderr()).toMatch(/The server ended by itself, .*\n[\s\S]*server log: /);
  await expectNothingLeft(started);
}

describe.skipIf(realVenv === undefined)("a server with real vLLM (KIVI_TEST_VENV)", () => {
  it.each(["Worker", "EngineCore"])(
    "whose %s is killed while it answers ends with an error",
    async (name) => {
      const started = await serve();
      const { server, family } = started;
      const answer = complete(server.url, 100, 900).catch((error: unknown) => ({
        status: 0,
        text: String(error),
      }));
      await sleep(50);
      process.kill(part(family, name), "SIGKILL");
      expect((await answer).status).not.toBe(200);
      await expectErrorAndNothingLeft(started);
    },
    START_MS,
  );

  it(
    "whose API server is killed ends with an error, and takes the engine along",
    async () => {
      const started = await serve();
      const { server, family } = started;
      process.kill(family[0]?.pid as number, "SIGKILL");
      await expectErrorAndNothingLeft(started);
      expect(server.stderr()).toContain("by SIGKILL");
    },
    START_MS,
  );

  it(
    "whose worker stands still beyond vLLM's deadline ends with an error",
    async () => {
      const started = await serve({ VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS: "5" });
      const { server, family } = started;
      process.kill(part(family, "Worker"), "SIGSTOP");
      expect((await complete(server.url, 100, 20)).status).toBe(500);
      await expectErrorAndNothingLeft(started);
    },
    START_MS,
  );

  it(
    "whose port is taken between kivi's look and vLLM's says so",
    async () => {
      running = await startTiny(home);
      const server = running;
      while (!server.stderr().includes("Server log:")) await sleep(20);
      const thief = createServer().listen({ host: "127.0.0.1", port: server.port });
      try {
        expect((await server.ended).code).toBe(3);
      } finally {
        thief.close();
      }
      expect(server.stderr()).toContain(
        `port ${server.port} on 127.0.0.1 was taken by another process meanwhile`,
      );
      expect(server.family()).toEqual([]);
    },
    START_MS,
  );

  it(
    "starts, refuses a prompt that is too long with the reason, and ends as ever after all that",
    async () => {
      const started = await serve();
      const { server } = started;
      const saved = await overload(server);
      expect(() => readClientResult(saved, 2)).toThrow(
        /^2 of 2 requests failed: Bad Request \(HTTP 400\): .*\b1024 tokens/,
      );
      expect((await complete(server.url, 10, 2)).status).toBe(200);
      server.child.kill("SIGTERM");
      expect(await server.ended).toEqual({ code: 143, signal: null });
      await expectNothingLeft(started);
      const log = /Server log: (\S+)/.exec(server.stderr())?.[1];
      expect(readFileSync(log as string, "utf8")).toContain("KIVI_REPORT");
    },
    START_MS,
  );
});
