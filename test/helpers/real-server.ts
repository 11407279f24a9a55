import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { freePort } from "../../src/core/server/index.js";
import { bareEnvironment, repository } from "./cli.js";
import { below, type Process, processes } from "./processes.js";
import { writeTinyModel } from "./tiny-model.js";

/** An environment with real vLLM; `npm test` makes one and names it here. */
export const realVenv = process.env.KIVI_TEST_VENV;

export interface RealServer {
  readonly child: ChildProcess;
  readonly port: number;
  readonly url: string;
  stdout(): string;
  stderr(): string;
  /** Of the server, kivi itself not among them; the API server first. */
  family(): Process[];
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

interface Options {
  readonly flags?: string[];
  readonly words?: string[];
  readonly env?: Record<string, string>;
}

/** Starts `kivi serve` on a tiny model with dummy weights and real vLLM. */
export async function startTiny(home: string, options: Options = {}): Promise<RealServer> {
  const port = await freePort("127.0.0.1");
  const model = writeTinyModel(join(home, "model"));
  const child = spawn(
    process.execPath,
    [
      ...[join(repository, "bin", "kivi.js"), "serve", model, "--venv", realVenv as string],
      ...[
        "--port",
        String(port),
        ...(options.flags ?? []),
        "--",
        "--load-format",
        "dummy",
        "--enforce-eager",
      ],
      ...["--max-model-len", "1024", "--max-num-seqs", "4", "--kv-cache-memory-bytes", "67108864"],
      ...(options.words ?? []),
    ],
    {
      cwd: home,
      env: bareEnvironment(home, { HF_HUB_OFFLINE: "1", ...options.env }),
      stdio: ["ignore", "pipe", "pipe"],
    },
  );
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk) => (stdout += chunk));
  child.stderr.on("data", (chunk) => (stderr += chunk));
  return {
    child,
    port,
    url: `http://127.0.0.1:${port}`,
    stdout: () => stdout,
    stderr: () => stderr,
    family: () => below(child.pid as number, processes()),
    ended: new Promise((resolve) => child.on("close", (code, signal) => resolve({ code, signal }))),
  };
}

/** The same, once it says that it is ready. */
export async function serveTiny(home: string, options: Options = {}): Promise<RealServer> {
  const server = await startTiny(home, options);
  const ready = new Promise<void>((resolve) =>
    server.child.stdout?.on("data", () => {
      if (server.stdout().includes("Ready after")) resolve();
    }),
  );
  await Promise.race([
    ready,
    server.ended.then(() => Promise.reject(new Error(`The server did not get ready:\n${server.stderr()}`))),
  ]);
  return server;
}

/** An answer to a prompt of so many words; the model has no end of text. */
export async function complete(
  url: string,
  words: number,
  tokens: number,
): Promise<{ status: number; text: string }> {
  const prompt = Array.from({ length: words }, (_, index) => 1 + ((index * 7) % 300));
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt, max_tokens: tokens, temperature: 0, ignore_eos: true }),
  });
  return { status: response.status, text: await response.text() };
}
