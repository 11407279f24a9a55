/** What a starting server is doing, told from its log. Later entries come later in a start. */
const PHASES: readonly { pattern: RegExp; text: string }[] = [
  { pattern: /Resolved architecture|non-default args/, text: "reading the model's configuration" },
  { pattern: /Using max model len/, text: "starting the engine process" },
  { pattern: /Initializing a V1 LLM engine/, text: "starting the workers" },
  { pattern: /Starting to load model/, text: "loading weights" },
  { pattern: /Loading weights took/, text: "weights loaded" },
  { pattern: /Warming up model|Dynamo bytecode|torch\.compile takes|Compiling a graph/, text: "profiling" },
  { pattern: /for KV cache|KV cache size|Available KV cache memory/, text: "allocating the cache" },
  { pattern: /Capturing CUDA graph/i, text: "capturing CUDA graphs" },
  { pattern: /init engine .*took/, text: "engine ready" },
  { pattern: /Starting vLLM server|Application startup complete/, text: "starting the HTTP server" },
];

const SERVING = PHASES.length - 1;
const SHARDS = /Loading safetensors checkpoint shards:\s+(\d+)% Completed/;

/** Follows the log of a start; phases only move forward, whatever order the processes' lines arrive in. */
export class PhaseTracker {
  #current = -1;

  /** Text to show when the line brings news. */
  see(line: string): string | undefined {
    const shards = SHARDS.exec(line);
    if (shards !== null) return `loading weights, ${shards[1]} %`;
    const found = PHASES.findIndex(({ pattern }) => pattern.test(line));
    if (found <= this.#current) return undefined;
    this.#current = found;
    return PHASES[found]?.text;
  }

  /** The HTTP server has said that it is up. */
  get serving(): boolean {
    return this.#current === SERVING;
  }
}

export const FIRST_PHASE = "starting Python and importing vLLM";
