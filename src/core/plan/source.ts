import { readdir, readFile, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import type { Context } from "../../shared/context.js";
import { environmentError, messageOf, systemCode, usageError } from "../../shared/errors.js";

/** A model's config.json and, where they are known, the bytes of its weight files. */
export interface ModelSource {
  /** Where it was read: a path or an address. */
  readonly where: string;
  readonly config: unknown;
  readonly weightBytes?: number;
}

const HUB_NAME = /^[\w-][\w.-]*\/[\w-][\w.-]*$/;
const TIMEOUT_MS = 20_000;

/** Reads a model's config from a folder, a file, or the hub. */
export async function openModel(ctx: Context, model: string): Promise<ModelSource> {
  const path = resolve(ctx.cwd, model);
  const found = await stat(path).catch(() => undefined);
  if (found?.isDirectory()) return fromFolder(path);
  if (found !== undefined) return fromFile(path);
  if (HUB_NAME.test(model)) return fromHub(ctx, model);
  throw usageError(
    "model-not-found",
    `${model} is neither a folder, nor a config.json, nor the name of a model on the hub (owner/name).`,
    "Name the folder that holds config.json.",
  );
}

function parse(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw usageError("model-config-invalid", `${where} is not JSON: ${messageOf(error)}`, undefined, {
      cause: error,
    });
  }
}

async function fromFile(path: string): Promise<ModelSource> {
  const config = parse(await readFile(path, "utf8"), path);
  const bytes = basename(path) === "config.json" ? await weightFiles(dirname(path)) : 0;
  return { where: path, config, ...(bytes === 0 ? {} : { weightBytes: bytes }) };
}

async function fromFolder(folder: string): Promise<ModelSource> {
  const path = join(folder, "config.json");
  try {
    return await fromFile(path);
  } catch (error) {
    if (systemCode(error) !== "ENOENT") throw error;
    throw usageError(
      "model-config-missing",
      `${folder} holds no config.json.`,
      "Name a folder with a Hugging Face checkpoint.",
    );
  }
}

/** Bytes of the safetensors files beside a config; a shard that is still missing makes the sum useless, so 0. */
async function weightFiles(folder: string): Promise<number> {
  const names = (await readdir(folder)).filter((name) => name.endsWith(".safetensors"));
  const index = await readFile(join(folder, "model.safetensors.index.json"), "utf8").catch(() => undefined);
  if (index !== undefined) return indexBytes(parse(index, join(folder, "model.safetensors.index.json")));
  const sizes = await Promise.all(names.map(async (name) => (await stat(join(folder, name))).size));
  return sizes.reduce((sum, size) => sum + size, 0);
}

function indexBytes(index: unknown): number {
  const total = (index as { metadata?: { total_size?: unknown } } | null)?.metadata?.total_size;
  return typeof total === "number" && total > 0 ? total : 0;
}

async function fromHub(ctx: Context, name: string): Promise<ModelSource> {
  const endpoint = (ctx.env.HF_ENDPOINT ?? "https://huggingface.co").replace(/\/+$/, "");
  const at = (file: string): string => `${endpoint}/${name}/resolve/main/${file}`;
  const where = at("config.json");
  const response = await download(ctx, where);
  if (response.status === 401 || response.status === 403) {
    throw environmentError(
      "model-gated",
      `${where} answered ${response.status}: the model is gated, private, or does not exist.`,
      "Set HF_TOKEN to a token that may read it, or download its config.json and name the file.",
    );
  }
  if (response.status === 404) {
    throw usageError(
      "model-not-found",
      `${where} does not exist.`,
      "Check the spelling of owner/name, or name a folder.",
    );
  }
  if (!response.ok) throw unreachable(where, `it answered ${response.status} ${response.statusText}`);
  const config = parse(await response.text(), where);
  const index = await download(ctx, at("model.safetensors.index.json"));
  const bytes = index.ok ? indexBytes(parse(await index.text(), at("model.safetensors.index.json"))) : 0;
  return { where, config, ...(bytes === 0 ? {} : { weightBytes: bytes }) };
}

async function download(ctx: Context, address: string): Promise<Response> {
  const token = ctx.env.HF_TOKEN;
  try {
    return await fetch(address, {
      signal: AbortSignal.any([ctx.signal, AbortSignal.timeout(TIMEOUT_MS)]),
      headers: token === undefined || token === "" ? {} : { authorization: `Bearer ${token}` },
    });
  } catch (error) {
    if (ctx.signal.aborted) throw ctx.signal.reason;
    const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
    throw unreachable(address, messageOf(cause), error);
  }
}

function unreachable(address: string, why: string, cause?: unknown) {
  return environmentError(
    "hub-unreachable",
    `${address} cannot be read: ${why}`,
    "Name a folder or a config.json on this machine, or set HF_ENDPOINT to a mirror that it can reach.",
    { cause },
  );
}
