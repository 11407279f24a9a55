import { join } from "node:path";
import type { Context } from "../../shared/context.js";
import { runChecked } from "../../shared/process.js";
import { DISTRIBUTION } from "../plugin/index.js";
import { cacheDtype, PRESET_NAMES } from "../plugin/presets.js";
import type { Venv } from "../venv/index.js";

interface Entry {
  readonly name: string;
  readonly value: string;
  /** Name and version of the distribution. */
  readonly owner: string;
  /** The KIVI cache dtypes that its Python files mention. */
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
      argv: [venv.python, "-B", probe, DISTRIBUTION.entryGroup, ...PRESET_NAMES.map(cacheDtype)],
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
  const others = entries.filter(({ owner }) => owner.split(" ")[0] !== DISTRIBUTION.name);
  return {
    entries,
    same: others.filter(({ name }) => name === DISTRIBUTION.entryName),
    claims: others.filter(({ claims }) => claims.length > 0),
  };
}
