/** The file of the baseline's answers, which the cells of other caches are compared with. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { BASELINE } from "./caches.js";
import type { PlannedCell } from "./matrix.js";
import type { Cell } from "./result.js";

async function isIntact({ path, sha256 }: { path: string; sha256: string }): Promise<boolean> {
  const bytes = await readFile(path).catch(() => undefined);
  return bytes !== undefined && createHash("sha256").update(bytes).digest("hex") === sha256;
}

/**
 * The cells of a resumed run, with those kept: the others read the reference that the kept baseline wrote. Where that
 * file is gone nothing is kept, since figures against two references cannot stand side by side.
 */
export async function shareReference(
  cells: readonly PlannedCell[],
  kept: ReadonlyMap<string, Cell>,
): Promise<{ cells: readonly PlannedCell[]; kept: ReadonlyMap<string, Cell> }> {
  const compares = cells.some(({ spec }) => spec.reference !== undefined);
  if (!compares || cells.every(({ key }) => kept.has(key))) return { cells, kept };
  const baseline = cells.find(({ cache }) => cache === BASELINE);
  const reference = kept.get(baseline?.key ?? "")?.quality?.reference;
  if (reference === undefined || !(await isIntact(reference))) return { cells, kept: new Map() };
  return {
    cells: cells.map((cell) => ({ ...cell, spec: { ...cell.spec, reference: reference.path } })),
    kept,
  };
}
