import { describe, expect, it } from "vitest";
import { FailureWatch } from "../../src/core/server/failures.js";

const about = {
  host: "127.0.0.1",
  port: 8000,
  venv: "/venv",
  model: "/model",
  device: "cpu",
} as const;

function explain(lines: string[], end: { exitCode?: number; signal?: string } = { exitCode: 1 }) {
  const watch = new FailureWatch();
  for (const line of lines) watch.see(line);
  return watch.explain(about, end);
}

const CORE = "(EngineCore pid=42) ERROR 11-23 14:31:07 [core.py:1100] ";
const ECHO = "(APIServer pid=41) RuntimeError: Engine core initialization failed. See root cause above.";
const ARGUMENTS =
  "(APIServer pid=41) INFO 11-23 14:30:49 [api_utils.py:273] non-default args: {'kv_cache_dtype': 'kivi_k4v4'}";

it("the last exception of a server that goes on is told as it comes", () => {
  const watch = new FailureWatch();
  const seen = [
    "(APIServer pid=41) INFO 11-23 14:31:07 [a.py:1] ready",
    `${CORE}ValueError: first`,
    "(APIServer pid=41) ERROR 11-23 14:32:07 [serving.py:9] KeyError: 'second'",
    '(APIServer pid=41) INFO:     127.0.0.1:4 - "POST /v1/completions HTTP/1.1" 500 Internal Server Error',
  ].map((line) => {
    watch.see(line);
    return watch.lastException;
  });
  expect(seen).toEqual([undefined, "ValueError: first", "KeyError: 'second'", "KeyError: 'second'"]);
});

describe("a failed start is named from its log", () => {
  it.each([
    ["kivi-refused", 2, `${CORE}ValueError: KIVI refuses: MLA models keep another cache`],
    [
      "kivi-refused",
      2,
      "(APIServer pid=1)   Value error, --additional-config 'kivi': key_group must be 32, found 48 [type=value_error, input_value=x]",
    ],
    [
      "vllm-configuration",
      2,
      "(APIServer pid=1)   Value error, max_num_batched_tokens (8) is too small [type=value_error]",
    ],
    ["port-in-use", 3, "(APIServer pid=41) OSError: [Errno 98] Address already in use"],
    [
      "plugin-inactive",
      3,
      "  Input should be 'auto', 'fp8' [type=literal_error, input_value='kivi_k4v4', input_type=str]",
    ],
    [
      "plugin-inactive",
      3,
      "api_server.py: error: argument --kv-cache-dtype: invalid choice: 'kivi_k4v4' (choose from auto, fp8)",
    ],
    [
      "context-too-long",
      3,
      `${CORE}ValueError: To serve at least one request with the model's max seq len (8192), (0.18 GiB KV cache is needed, which is larger than the available KV cache memory (0.05 GiB). Based on the available memory, the estimated maximum model length is 2288. Try increasing`,
    ],
    ["no-memory", 3, `${CORE}ValueError: No available memory for the cache blocks. Try increasing`],
    [
      "no-memory",
      3,
      "(Worker pid=43) ValueError: Available memory on node 0 (20/23 GiB) on kv cache allocation is less than requested memory for kv (99 GiB).",
    ],
    ["no-memory", 3, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."],
    ["disk-full", 3, "OSError: [Errno 28] No space left on device"],
    [
      "no-compiler",
      3,
      "torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler found",
    ],
    [
      "model-unsupported",
      2,
      "  Value error, Model architectures ['XForCausalLM'] are not supported for now.",
    ],
    [
      "model-not-found",
      2,
      "OSError: nobody/nothing is not a local folder and is not a valid model identifier listed on",
    ],
    ["vllm-argument", 2, "api_server.py: error: unrecognized arguments: --max-modle-len"],
    ["vllm-broken", 3, "ModuleNotFoundError: No module named 'torch'"],
    ["no-device", 3, "RuntimeError: Failed to infer device type, please set the environment variable"],
  ])("%s", (code, exitCode, line) => {
    expect(explain([ARGUMENTS, line, ECHO])).toMatchObject({ code, exitCode });
  });

  it("gives the context length that fits", () => {
    const line = `${CORE}ValueError: To serve at least one request with the model's max seq len (8192), (0.18 GiB KV cache is needed, which is larger than the available KV cache memory (0.05 GiB). Based on the available memory, the estimated maximum model length is 2288.`;
    expect(explain([line]).hint).toContain("--max-model-len 2288");
  });

  it("keeps long and machine-made texts short", () => {
    const list = "'LlamaForCausalLM', ".repeat(300);
    const line = `  Value error, Model architectures ['X'] are not supported for now. Supported: [${list}] [type=value_error, input_value=y]`;
    expect(explain([line]).reason).toBe(
      "this vLLM does not know the model: Model architectures ['X'] are not supported",
    );
    const refusal =
      "  Value error, KIVI refuses: no such thing [type=value_error, input_value=ArgsKwargs((), {})]";
    expect(explain([refusal]).reason).toBe("KIVI refuses: no such thing");
  });

  it("falls back on the first exception, not on its echoes", () => {
    const failure = explain([ARGUMENTS, `${CORE}KeyError: 'model.layers.0'`, ECHO]);
    expect(failure).toMatchObject({ code: "server-failed", exitCode: 4 });
    expect(failure.reason).toBe("KeyError: 'model.layers.0' (exit code 1)");
  });

  it("tells a kill from outside and a silent end", () => {
    expect(explain([ARGUMENTS], { signal: "SIGKILL" })).toMatchObject({ code: "server-killed", exitCode: 4 });
    expect(explain([], { exitCode: 3 }).reason).toBe("it said nothing (exit code 3)");
  });
});
