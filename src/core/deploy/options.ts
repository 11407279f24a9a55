import { cacheDtype, type PresetName } from "../plugin/presets.js";

/** What a server in a container is started with. */
export interface DeployOptions {
  /** What the built image is called. */
  readonly image: string;
  /** A name on the hub, or a path below the volume of models. */
  readonly model: string;
  readonly preset: PresetName;
  readonly port: number;
  /** GPUs of the one engine. */
  readonly tensorParallel: number;
  readonly maxModelLen?: number | undefined;
}

/** Where the volume of models is, in every container. */
export const MODELS = "/models";

/** The words after `vllm serve`. */
export function serveArguments(options: DeployOptions): string[] {
  const { model, preset, port, tensorParallel, maxModelLen } = options;
  return [
    model,
    "--kv-cache-dtype",
    cacheDtype(preset),
    // All addresses of the container; who reaches it is said outside of it.
    "--host",
    "0.0.0.0",
    "--port",
    String(port),
    "--tensor-parallel-size",
    String(tensorParallel),
    ...(maxModelLen === undefined ? [] : ["--max-model-len", String(maxModelLen)]),
  ];
}
