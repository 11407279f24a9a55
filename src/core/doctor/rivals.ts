import { join } from "node:path";
import type { Context } from "../../shared/context.js";
import { runChecked } from "../../shared/process.js";
import { DISTRIBUTION } from "../plugin/index.js";
import { cacheDtype, PRESET_NAMES } from "../plugin/presets.js";
import type { Venv } from "../venv/index.js";

/** What this plugin replaces in vLLM (the ledger in python-plugin/vllm_kivi/compat); a test keeps it so. */
export const SEAMS = [
  "CacheDType",
  "STR_DTYPE_TO_TORCH_DTYPE",
  "check_and_update_config",
  "determine_available_memory",
  "execute_model",
  "get_attn_backend_cls",
  "get_kv_cache_spec",
  "initialize_kv_cache",
  "prepare_attn",
  "register_triton_kernel_overrides",
  "update_block_size_for_backend",
  "wake_up",
] as const;

interface Entry {
  readonly name: string;
  readonly value: string;
  /** Name and version of the distribution. */
  readonly owner: string;
  /** The KIVI cache dtypes and the seams that its Python files mention. */
  readonly claims: readonly string[];
}

/** All of vLLM's general plugins as a fresh interpreter sees them, and those that are in ours' way. */
export async function findRivals(
  context: Context,
  venv: Venv,
): Promise<{ entries: Entry[]; same: Entry[]; claims: Entry[] }> {
  const probe = join(context.paths.templates, "probes", "inspect_plugins.py");
  const { stdout } = await runChecked(
    context.runner,
    {
      argv: [venv.python, "-B", probe, DISTRIBUTION.entryGroup, ...PRESET_NAMES.map(cacheDtype), ...SEAMS],
      readOnly: true,
    },
    {
      what: "Listing vLLM's plugins",
      code: "plugins-unknown",
      cwd: venv.path,
      signal: context.signal,
      timeoutMs: 60_000,
    },
  );
  const entries = JSON.parse(stdout) as Entry[];
  // vLLM has plugins of its own, and the seams are its.
  const known = [DISTRIBUTION.name, venv.vllm?.distribution];
  const others = entries.filter(({ owner }) => !known.includes(owner.split(" ")[0]));
  return {
    entries,
    same: others.filter(({ name }) => name === DISTRIBUTION.entryName),
    claims: others.filter(({ claims }) => claims.length > 0),
  };
}
