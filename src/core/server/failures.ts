import { type ErrorExitCode, EXIT } from "../../shared/errors.js";

/** Why a start failed, in words for the user. */
export interface Failure {
  readonly code: string;
  readonly exitCode: ErrorExitCode;
  readonly reason: string;
  readonly hint: string;
}

export interface FailureContext {
  readonly host: string;
  readonly port: number;
  readonly venv: string;
  readonly model: string;
  readonly device: "cpu" | "cuda";
}

interface Rule {
  readonly code: string;
  readonly exitCode: ErrorExitCode;
  readonly pattern: RegExp;
  reason(match: RegExpExecArray, about: FailureContext): string;
  hint(match: RegExpExecArray, about: FailureContext): string;
}

const LONGEST_REASON = 300;
/** The patterns take time by the square of a line, and some logs have lines of megabytes. */
const LONGEST_LINE = 4000;

/** Without what pydantic adds to a message, and no longer than a person reads. */
function tidy(text: string): string {
  const plain = text.replace(/ \[type=\w+, input_value=.*$/, "").trim();
  return plain.length > LONGEST_REASON ? `${plain.slice(0, LONGEST_REASON)} ...` : plain;
}

const LESS_MEMORY = "-- --max-model-len 2048 --max-num-seqs 16";

/** First match in this order wins, wherever it is in the log: the specific before the general. */
const RULES: readonly Rule[] = [
  {
    code: "kivi-refused",
    exitCode: EXIT.usage,
    pattern: /KIVI refuses: (.+)|Value error, (--additional-config 'kivi'.+)/,
    reason: ([, why, setting]) => `KIVI refuses: ${why ?? setting}`,
    hint: (_, { model }) =>
      `Change the setting it names (kivi serve --help), or serve this model without KIVI: vllm serve ${model}`,
  },
  {
    code: "port-in-use",
    exitCode: EXIT.environment,
    pattern: /Address already in use|EADDRINUSE|\[Errno 98\]|\[Errno 48\]/i,
    reason: (_, { host, port }) => `port ${port} on ${host} was taken by another process meanwhile`,
    hint: (_, { port }) => `Choose another one: kivi serve MODEL --port ${port === 65_535 ? 8000 : port + 1}`,
  },
  {
    code: "plugin-inactive",
    exitCode: EXIT.environment,
    pattern: /invalid choice: '?kivi_|Input should be .*input_value='kivi_|KeyError: 'kivi_/,
    reason: () => "vLLM does not know the KIVI cache: the plugin did not load",
    hint: (_, { venv }) => `Install it again: kivi install ${venv}`,
  },
  {
    code: "context-too-long",
    exitCode: EXIT.environment,
    pattern:
      /max seq len \((\d+)\).*is larger than the available KV cache(?:.*maximum model length is (\d+))?/,
    reason: ([, asked]) => `the cache cannot hold one sequence of ${asked} tokens`,
    hint: ([, , fits]) => `Run again with a shorter context: -- --max-model-len ${fits ?? "2048"}`,
  },
  {
    code: "no-memory",
    exitCode: EXIT.environment,
    pattern:
      /No available memory for the cache blocks|is less than requested memory for kv|less than desired GPU memory utilization|to serve even a single token|CUDA out of memory|OutOfMemoryError|Cannot allocate memory|can't allocate memory|^\S*MemoryError/,
    reason: ([what]) => `not enough memory for the model and its cache (${what})`,
    hint: (_, { device }) =>
      device === "cpu"
        ? `Bound the cache and the batch: -- --kv-cache-memory-bytes 1073741824 --max-model-len 2048 --max-num-seqs 16`
        : `See who uses the GPU (nvidia-smi), or ask for less: -- --gpu-memory-utilization 0.8 ${LESS_MEMORY.slice(3)}`,
  },
  {
    code: "disk-full",
    exitCode: EXIT.environment,
    pattern: /No space left on device/,
    reason: () => "no space left on the device",
    hint: () => "Free some space (df -h), then run the same command again.",
  },
  {
    code: "no-compiler",
    exitCode: EXIT.environment,
    pattern: /InvalidCxxCompiler|No working C\+\+ compiler|Failed to find C compiler|nvcc.*not found/,
    reason: () => "vLLM compiles the model and found no compiler",
    hint: () => "Run again without compilation: -- --enforce-eager",
  },
  {
    code: "model-unsupported",
    exitCode: EXIT.usage,
    pattern: /(Model architectures \[.*?\] are not supported|.*does not recognize this architecture)/,
    reason: ([what]) => `this vLLM does not know the model: ${what.trim()}`,
    hint: () => "Choose a model from https://docs.vllm.ai/en/latest/models/supported_models.html",
  },
  {
    code: "model-not-found",
    exitCode: EXIT.usage,
    pattern:
      /Invalid repository ID or local directory|is not a valid model identifier|Repository Not Found|RepositoryNotFoundError|Repo id must|does not appear to have a file named|LocalEntryNotFoundError|couldn't connect to 'https:\/\/huggingface|GatedRepoError|Cannot reach https:\/\/huggingface/i,
    reason: ([what], { model }) => `the model ${model} could not be read (${what})`,
    hint: () =>
      "Name a folder with config.json and weights, or a hub model that this machine can reach and may read.",
  },
  {
    code: "vllm-argument",
    exitCode: EXIT.usage,
    pattern: /error: ((?:unrecognized arguments|argument|ambiguous option).*)/,
    reason: ([, what]) => `vLLM refused an argument after --: ${what}`,
    hint: () => "Correct the words after --, see vllm serve --help=all",
  },
  {
    code: "vllm-broken",
    exitCode: EXIT.environment,
    pattern:
      /(ModuleNotFoundError: No module named '(?:vllm|torch)\b.*|ImportError: .*(?:libtorch|libcud|GLIBC|vllm|torch).*)/,
    reason: ([what]) => `vLLM cannot be imported: ${what}`,
    hint: (_, { device }) => `Make a new environment: kivi install --create PATH --device ${device}`,
  },
  {
    code: "no-device",
    exitCode: EXIT.environment,
    pattern: /(Failed to infer device type|No CUDA GPUs are available|CUDA driver version is insufficient)/,
    reason: ([what]) => `vLLM found no usable GPU: ${what}`,
    hint: () => "See what nvidia-smi says, or use the CPU build: kivi install --create PATH --device cpu",
  },
  {
    // What vLLM's checks of its configuration say: too general to stand before any of the others.
    code: "vllm-configuration",
    exitCode: EXIT.usage,
    pattern: /^\s*Value error, (.+)/,
    reason: ([, what]) => `vLLM refused its configuration: ${what}`,
    hint: () => "Change the setting it names; words after -- go to vLLM, see vllm serve --help=all",
  },
];

/** Anything that ends like a Python exception; the first in the log is the cause, the rest are its echoes. */
const EXCEPTION = /(?:^|[\s)])((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit)): (.+)/;
const PREFIX = /^\(\w+ pid=\d+\)\s+(?:(?:ERROR|INFO|WARNING)\s[^\]]*\]\s?)?/;

/** Reads a log as it streams by and remembers what may explain a failure; needs no more than a few lines of memory. */
export class FailureWatch {
  readonly #matches = new Map<Rule, RegExpExecArray>();
  #firstException: string | undefined;
  #lastException: string | undefined;
  #last = "";

  see(line: string): void {
    const text = line.slice(0, LONGEST_LINE).replace(PREFIX, "").trimEnd();
    if (text.trim() !== "") this.#last = text.trim();
    for (const rule of RULES) {
      if (this.#matches.has(rule)) continue;
      const match = rule.pattern.exec(text);
      if (match !== null) this.#matches.set(rule, match);
    }
    const exception = EXCEPTION.exec(text);
    if (exception === null) return;
    this.#lastException = `${exception[1]}: ${exception[2]}`;
    this.#firstException ??= this.#lastException;
  }

  /** Of a server that may run on: what it failed at last. */
  get lastException(): string | undefined {
    return this.#lastException && tidy(this.#lastException);
  }

  /** The best explanation of an exit that was not asked for. */
  explain(
    about: FailureContext,
    end: { exitCode?: number | undefined; signal?: string | undefined },
  ): Failure {
    const rule = RULES.find((candidate) => this.#matches.has(candidate));
    const match = rule === undefined ? undefined : this.#matches.get(rule);
    if (rule !== undefined && match !== undefined) {
      const { code, exitCode } = rule;
      return { code, exitCode, reason: tidy(rule.reason(match, about)), hint: rule.hint(match, about) };
    }
    if (end.signal === "SIGKILL" || end.exitCode === 137) {
      return {
        code: "server-killed",
        exitCode: EXIT.child,
        reason: "it was killed from outside, as the system does when memory runs out",
        hint: `See dmesg | tail, and ask for less memory: ${LESS_MEMORY}`,
      };
    }
    const how = end.signal === undefined ? `exit code ${end.exitCode}` : end.signal;
    return {
      code: "server-failed",
      exitCode: EXIT.child,
      reason: `${this.#firstException ?? (this.#last || "it said nothing")} (${how})`,
      hint: "Read the server's log, named above; kivi serve --dry-run shows the command to try by hand.",
    };
  }
}
