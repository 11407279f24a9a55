import { constants } from "node:fs";
import { access, mkdir, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { writeJsonAtomic } from "../../shared/atomic.js";
import { environmentError, messageOf, systemCode, usageError } from "../../shared/errors.js";
import { type BenchResult, benchResultSchema, RESULT_KIND, SCHEMA_VERSION } from "./result.js";

/**
 * Reads a saved result; undefined when there is no such file, an error for a file that is something else. `next` says
 * what to do about such a file.
 */
export async function readResult(
  path: string,
  next = "Name another file with --output.",
): Promise<BenchResult | undefined> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (systemCode(error) === "ENOENT") return undefined;
    if (systemCode(error) === "EISDIR") throw notAResult(path, next, "it is a folder", error);
    throw environmentError("result-unreadable", `${path} cannot be read: ${messageOf(error)}`, undefined, {
      cause: error,
    });
  }
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (error) {
    throw notAResult(path, next, "it is not JSON", error);
  }
  const head = document as { kind?: unknown; schemaVersion?: unknown } | null;
  if (head?.kind !== RESULT_KIND) throw notAResult(path, next, `its "kind" is not "${RESULT_KIND}"`);
  if (head.schemaVersion !== SCHEMA_VERSION) {
    throw notAResult(
      path,
      next,
      `its schemaVersion is ${String(head.schemaVersion)}, this kivi knows ${SCHEMA_VERSION}`,
    );
  }
  const checked = benchResultSchema.safeParse(document);
  if (checked.success) return checked.data;
  const [issue] = checked.error.issues;
  throw notAResult(path, next, `${issue?.path.join(".")}: ${issue?.message}`, checked.error);
}

function notAResult(path: string, next: string, why: string, cause?: unknown) {
  return usageError("not-a-bench-result", `${path} is not a result of kivi bench: ${why}.`, next, { cause });
}

/** Reads a result that has to be there. */
export async function openResult(path: string): Promise<BenchResult> {
  const result = await readResult(
    path,
    "Name a file that kivi bench wrote, and measure again what another version of kivi wrote.",
  );
  if (result !== undefined) return result;
  throw usageError("result-not-found", `There is no result file ${path}.`, "kivi bench MODEL writes one.");
}

/** Finds an output that cannot be written before anything is measured, and leaves an earlier result alone. */
export async function checkWritable(path: string): Promise<void> {
  try {
    await mkdir(dirname(path), { recursive: true });
    await access(dirname(path), constants.W_OK);
  } catch (error) {
    throw unwritable(path, error);
  }
}

/** Of a write that found no room: the rest of the file system, or of what this user may fill. */
const FULL = ["ENOSPC", "EDQUOT"];

/** Any file of a run that could not be written; the result that was there before is as it was. */
export function unwritable(path: string, error: unknown) {
  if (FULL.includes(systemCode(error) ?? "")) {
    return environmentError(
      "disk-full",
      `The disk is full: ${path} could not be written (${messageOf(error)}). What an earlier write put there is intact.`,
      "Free some space, then run the same command with --resume: cells that were saved are kept.",
      { cause: error },
    );
  }
  return environmentError(
    "result-unwritable",
    `${path} cannot be written: ${messageOf(error)}`,
    "Name a file in a folder you can write to with --output.",
    { cause: error },
  );
}

export async function writeResult(path: string, result: BenchResult): Promise<void> {
  try {
    await writeJsonAtomic(path, result);
  } catch (error) {
    throw unwritable(path, error);
  }
}
