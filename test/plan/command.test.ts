import { mkdirSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { main } from "../../src/cli/main.js";
import { temporaryFolder } from "../helpers/cli.js";
import { MODELS } from "./models.js";

const home = temporaryFolder();
const llama = MODELS["Llama-3.1-8B"].config;
mkdirSync(join(home, "llama"));
writeFileSync(join(home, "llama", "config.json"), JSON.stringify(llama));
mkdirSync(join(home, "empty"));

async function run(argv: string[], env: Record<string, string> = {}) {
  let stdout = "";
  let stderr = "";
  const code = await main(["plan", ...argv], {
    stdout: { write: (text) => (stdout += text) },
    stderr: { write: (text) => (stderr += text) },
    env: { HOME: home, ...env },
    cwd: home,
    handleSignals: false,
  });
  return { code, stdout, stderr };
}

describe("kivi plan", () => {
  it("prints memory, caches and how the figures are known", async () => {
    const { code, stdout } = await run(["llama", "--gpu", "h200"]);
    expect(code).toBe(0);
    expect(stdout).toMatchInlineSnapshot(`
      "llama (llama) on 1 GPU
        memory of a GPU        139.8 GiB  h200
        usable at 0.9          125.8 GiB
        weights                -15.0 GiB  estimate, 8.03 billion parameters
        activations, logits   -763.9 MiB  estimate for 8,192 tokens and 256 sequences a step
        left for the cache     110.1 GiB

      cache  bytes/token         staging  tokens held         seqs of 8,192
      bf16       131,072  1.00x        -      902,064  1.00x            110
      fp8         65,536  0.50x        -    1,804,144  2.00x            220
      k4v4        34,304  0.26x  2.3 GiB    3,376,000  3.74x            412
      k4v2        26,880  0.21x  4.5 GiB    4,218,240  4.68x            514
      k2v2        22,528  0.17x  2.8 GiB    5,113,856  5.67x            624

      Staging keeps the open keys and values and the windows of 256 sequences in eight bits (--max-num-seqs).
      "
    `);
  });

  it("gives the same as JSON", async () => {
    const { stdout } = await run(["llama/config.json", "--memory", "80GiB", "--context", "32768", "--json"]);
    const document = JSON.parse(stdout);
    expect(document).toMatchObject({
      gpu: { name: "given", memoryBytes: 80 * 2 ** 30 },
      settings: { context: 32768 },
    });
    expect(document.caches.map((cache: { cache: string }) => cache.cache)).toEqual([
      "bf16",
      "fp8",
      "k4v4",
      "k4v2",
      "k2v2",
    ]);
  });

  it("takes the size of weight files over an estimate", async () => {
    mkdirSync(join(home, "sharded"));
    writeFileSync(join(home, "sharded", "config.json"), JSON.stringify(llama));
    const index = { metadata: { total_size: 16_060_522_496 }, weight_map: {} };
    writeFileSync(join(home, "sharded", "model.safetensors.index.json"), JSON.stringify(index));
    const { stdout } = await run(["sharded", "--json"]);
    expect(JSON.parse(stdout).weights).toEqual({ bytes: 16_060_522_496, source: "files" });
  });

  it("says where the plugin will lower --max-num-seqs", async () => {
    const { stdout } = await run(["llama", "--gpu", "h200", "--max-num-seqs", "1024"]);
    expect(stdout).toContain(
      "lowers --max-num-seqs for k4v4, k4v2, k2v2: staging may take 1/20 of the usable memory",
    );
  });

  it("says so when the model does not fit, with exit code 1", async () => {
    const { code, stderr } = await run(["llama", "--memory", "16GiB"]);
    expect(code).toBe(1);
    expect(stderr).toContain("The model does not fit");
    expect(stderr).toContain("--tensor-parallel 2");
  });

  it.each([
    [["empty"], "holds no config.json"],
    [["nowhere"], "neither a folder, nor a config.json"],
    [["llama", "--gpu", "h20"], 'Did you mean "h200"?'],
    [["llama", "--memory", "80"], "expected a size such as 80GiB"],
    [["llama", "--gpu", "h200", "--memory", "80GiB"], "both say how much memory"],
    [["llama", "--utilization", "NaN"], "--utilization: expected a number"],
    [["llama", "--tensor-parallel", "5"], "does not divide the model's 32 heads"],
  ])("refuses %j as usage", async (argv, message) => {
    const { code, stderr, stdout } = await run(argv);
    expect(code).toBe(2);
    expect(stdout).toBe("");
    expect(stderr).toContain(message);
  });
});

describe("kivi plan from the hub", () => {
  let server: Server;
  let endpoint = "";
  const asked: string[] = [];

  beforeAll(async () => {
    server = createServer((request, response) => {
      asked.push(`${request.url} ${request.headers.authorization ?? "-"}`);
      if (request.url === "/meta/llama/resolve/main/config.json") response.end(JSON.stringify(llama));
      else if (request.url === "/meta/llama/resolve/main/model.safetensors.index.json")
        response.end(JSON.stringify({ metadata: { total_size: 16_060_522_496 } }));
      else if (request.url?.startsWith("/gated/")) response.writeHead(401).end();
      else if (request.url?.startsWith("/broken/")) response.end("<html>");
      else response.writeHead(404).end();
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  });
  afterAll(() => server.close());

  it("reads config and weight sizes at HF_ENDPOINT, with HF_TOKEN when there is one", async () => {
    const { code, stdout } = await run(["meta/llama", "--json"], { HF_ENDPOINT: endpoint, HF_TOKEN: "t" });
    expect(code).toBe(0);
    expect(JSON.parse(stdout).weights.source).toBe("files");
    expect(asked[0]).toBe("/meta/llama/resolve/main/config.json Bearer t");
  });

  it.each([
    ["gated/model", 3, "HF_TOKEN"],
    ["no/such", 2, "does not exist"],
    ["broken/model", 2, "is not JSON"],
  ])("explains %s", async (name, expected, message) => {
    const { code, stderr } = await run([name], { HF_ENDPOINT: endpoint });
    expect(code).toBe(expected);
    expect(stderr).toContain(message);
  });

  it("is one clear error when there is no network", async () => {
    const { code, stderr } = await run(["meta/llama"], { HF_ENDPOINT: "http://127.0.0.1:9" });
    expect(code).toBe(3);
    expect(stderr).toContain("http://127.0.0.1:9/meta/llama/resolve/main/config.json cannot be read");
    expect(stderr).toContain("set HF_ENDPOINT to a mirror");
  });
});
