#!/usr/bin/env node
// A program with the ways of a vLLM server that are hard on whoever has to stop it. Started as
// `vllm serve BEHAVIOUR --kv-cache-dtype ... --host H --port P [words]`; it opens a real port and real processes.
import { spawn } from "node:child_process";
import { appendFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";

const argv = process.argv.slice(2);
const behaviour = argv[1].split("/").at(-1);
const value = (flag) => argv[argv.indexOf(flag) + 1];
const REPORT = {
  version: 1,
  preset: "k4v4",
  key_bits: 4,
  value_bits: 4,
  key_group: 128,
  value_group: 64,
  key_window: 0,
  value_residual: 64,
  value_window: 0,
  rotation: false,
  clipping: false,
  rank: 0,
  block_size: 128,
  num_blocks: 100,
  page_bytes: 26304,
  layers: 30,
  bytes_per_token: 6165,
  bf16_bytes_per_token: 23040,
  tokens: 12800,
  bf16_tokens: 3840,
  staging_slots: 8,
  staging_bytes: 23592960,
};

const line = (text) => process.stdout.write(`${text}\n`);
const log = (text) => line(`(APIServer pid=${process.pid}) ${text}`);
// Every process writes itself down, so that the test can see that all of them are gone.
const pidFile = value("--pids");
appendFileSync(pidFile, `${process.pid}\n`);
// And how it was started.
writeFileSync(`${pidFile}.json`, JSON.stringify({ argv: process.argv.slice(1), env: process.env }));
const deaf = `
  require("fs").appendFileSync(${JSON.stringify(pidFile)}, process.pid + "\\n");
  for (const name of ["SIGTERM", "SIGINT", "SIGHUP"]) process.on(name, () => {});
  setInterval(() => {}, 1e6);`;
const child = (code, options = {}) => spawn(process.execPath, ["-e", code], { stdio: "inherit", ...options });
const serve = () =>
  createServer((_, response) => response.end()).listen(Number(value("--port")), value("--host"), () => {
    log("INFO 01-01 00:00:00 [api_server.py:1] Starting vLLM server on http://here");
    if (behaviour === "silent") return;
    const engines = behaviour === "engines" ? [{ data_parallel_rank: 0 }, { data_parallel_rank: 1 }] : [{}];
    for (const engine of engines)
      line(`(Worker pid=1) INFO 01-01 [report.py:1] KIVI_REPORT ${JSON.stringify({ ...REPORT, ...engine })}`);
  });

if (behaviour === "tells") line(`INFO non-default args: ${process.env.VLLM_API_KEY} ${process.env.HF_TOKEN}`);
log("INFO 01-01 00:00:00 [model.py:1] Resolved architecture: LlamaForCausalLM");
if (behaviour === "fails") {
  line(
    "(EngineCore pid=1) ERROR 01-01 00:00:00 [core.py:1] ValueError: No available memory for the cache blocks. Try ...",
  );
  line("RuntimeError: Engine core initialization failed. See root cause above.");
  process.exitCode = 1;
} else if (behaviour === "stuck") {
  setInterval(() => {}, 1e6);
} else if (behaviour === "deaf") {
  child(deaf);
  child(deaf);
  process.on("SIGTERM", () => log("not listening"));
  serve();
} else if (behaviour === "daemon") {
  // A grandchild in a session of its own, re-parented at once, that keeps the pipes and does not hear TERM.
  const daemon = `require("child_process").spawn(process.execPath, ["-e", ${JSON.stringify(deaf)}], { detached: true, stdio: "inherit" }).unref();`;
  child(daemon).on("exit", serve);
} else if (behaviour === "nameless") {
  // The same without the mark in its environment, as vLLM's processes are after writing their titles.
  child(deaf, { detached: true, env: { PATH: process.env.PATH } });
  setTimeout(serve, 2500);
} else if (behaviour === "dies") {
  child(deaf, { detached: true });
  serve();
  setTimeout(() => {
    line("(EngineCore pid=1) ERROR 01-01 00:00:00 [core.py:1] something broke");
    process.exit(7);
  }, 1500);
} else {
  serve();
}
