/** Refuses, before an engine starts, a cache that the installed vLLM does not have. */
import { join } from "node:path";
import type { Context } from "../../shared/context.js";
import { usageError } from "../../shared/errors.js";
import { runChecked } from "../../shared/process.js";
import { didYouMean } from "../../shared/suggest.js";
import { CACHE_NAMES, canonicalName, inOrder } from "./caches.js";
import type { MatrixConfig } from "./config.js";

/** The names of all caches of the environment, with KIVI's; empty where vLLM does not say. */
async function installedCaches(ctx: Context, python: string): Promise<string[]> {
  const probe = join(ctx.paths.templates, "probes", "list_caches.py");
  const { stdout } = await runChecked(
    ctx.runner,
    { argv: [python, "-I", probe], readOnly: true },
    { what: "Reading the names of vLLM's caches", signal: ctx.signal, timeoutMs: 60_000 },
  );
  const words = JSON.parse(stdout) as string[];
  return words.length === 0 ? [] : inOrder([...CACHE_NAMES, ...words.map(canonicalName)]);
}

/** Asks only about names that not every supported vLLM has. */
export async function requireKnownCaches(
  ctx: Context,
  { caches, python }: Pick<MatrixConfig, "caches" | "python">,
): Promise<void> {
  const unsure = caches.filter((cache) => !CACHE_NAMES.includes(cache));
  if (unsure.length === 0) return;
  const known = await installedCaches(ctx, python);
  const unknown = known.length === 0 ? undefined : unsure.find((cache) => !known.includes(cache));
  if (unknown === undefined) return;
  throw usageError(
    "unknown-cache",
    `--caches: the vLLM of ${join(python, "..", "..")} has no KV cache "${unknown}".${didYouMean(unknown, known)}\nIt has ${known.join(", ")}.`,
    "Name caches of that list.",
    { details: { unknown, known } },
  );
}
