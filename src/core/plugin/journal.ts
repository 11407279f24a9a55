import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { environmentError, messageOf } from "../../shared/errors.js";
import { confined, lookAt } from "./confine.js";

const path = z.string();

/** What a transaction is about to do, on disk before its first move. Paths are relative to site-packages. */
const journalSchema = z.strictObject({
  version: z.literal(2),
  /** Made in this order; taken back in the reverse one. */
  moves: z.array(z.strictObject({ from: path, to: path })),
  /** Folders that the new files need and that are not there yet, outermost first. */
  newFolders: z.array(path),
  /** Folders that the removal leaves empty, innermost first. */
  emptiedFolders: z.array(z.strictObject({ path, mode: z.number().int().min(0).max(0o7777) })),
});

export type Journal = z.infer<typeof journalSchema>;

function refuse(file: string, why: string, cause?: unknown): never {
  throw environmentError(
    "journal-refused",
    `${file} is not what kivi wrote: ${why}; nothing was changed.`,
    "An environment of unclear state: look at that file, or make a new environment and remove this one.",
    { cause },
  );
}

/** Names a file or folder of site-packages that a journal speaks of; throws where it lies anywhere else. */
export function placeOf(named: string, site: string, file: string): string {
  return confined(named, site) ?? refuse(file, `it names ${JSON.stringify(named)}, which is outside ${site}`);
}

/** The same for a folder, which is none if it is a link. */
export function folderOf(named: string, site: string, file: string): string {
  const place = placeOf(named, site, file);
  const isLink = lookAt(place)?.isSymbolicLink() === true;
  return isLink ? refuse(file, `it names ${JSON.stringify(named)}, which is a link`) : place;
}

/** Reads a journal and checks every path in it before any of them is used. */
export function readJournal(folder: string, name: string, site: string): Journal {
  const file = join(folder, name);
  if (!lookAt(folder)?.isDirectory()) refuse(folder, "it is not a folder");
  if (!lookAt(file)?.isFile()) refuse(file, "it is not a file");
  let document: unknown;
  try {
    document = JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    refuse(file, messageOf(error), error);
  }
  const checked = journalSchema.safeParse(document);
  if (!checked.success) {
    const [issue] = checked.error.issues;
    return refuse(file, `${issue?.path.join(".")}: ${issue?.message}`, checked.error);
  }
  const { moves, newFolders, emptiedFolders } = checked.data;
  for (const { from, to } of moves) for (const named of [from, to]) placeOf(named, site, file);
  for (const named of [...newFolders, ...emptiedFolders.map((folder) => folder.path)])
    folderOf(named, site, file);
  return checked.data;
}
