import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { internalError } from "../../shared/errors.js";
import { lookAt } from "./confine.js";
import { type FileGate, makeFolders } from "./files.js";
import { folderOf, type Journal, placeOf, readJournal } from "./journal.js";
import type { ProjectFile } from "./project.js";
import { recordHash } from "./record.js";

const WORK = ".kivi-work";
const JOURNAL = "journal.json";
const DONE = "done.json";

/**
 * Replaces files in site-packages as one act. New files are staged on the same disk and checked by hash; old ones are
 * moved aside; nothing is deleted before `commit`. `rollback` (or `recover`, in a later process) brings back the tree
 * as it was, hand-made changes included.
 */
export class Transaction {
  readonly #work: string;
  readonly #staged: string[] = [];

  constructor(
    private readonly gate: FileGate,
    private readonly site: string,
  ) {
    this.#work = join(site, WORK);
  }

  get stageFolder(): string {
    return join(this.#work, "stage");
  }

  /** Writes the new files beside their places and reads them back. */
  stage(files: readonly ProjectFile[]): void {
    this.gate.makeFolder(this.#work);
    for (const { path, data } of files) {
      const target = join(this.stageFolder, path);
      makeFolders(this.gate, dirname(target));
      this.gate.write(target, data);
      if (recordHash(readFileSync(target)) !== recordHash(data)) {
        throw internalError("stage-mismatch", `${target} does not read back as written.`);
      }
      this.#staged.push(path);
    }
  }

  /** Moves `removed` (absolute paths) aside and the staged files in. */
  swap(removed: readonly string[]): void {
    if (!existsSync(this.#work)) this.gate.makeFolder(this.#work);
    const journal = this.#plan(removed);
    const text = Buffer.from(JSON.stringify(journal));
    this.gate.write(join(this.#work, `${JOURNAL}.new`), text);
    this.gate.move(join(this.#work, `${JOURNAL}.new`), join(this.#work, JOURNAL));
    const at = (path: string): string => join(this.site, path);
    for (const folder of journal.newFolders) if (!existsSync(at(folder))) this.gate.makeFolder(at(folder));
    for (const { from, to } of journal.moves) {
      makeFolders(this.gate, dirname(at(to)));
      this.gate.move(at(from), at(to));
    }
    for (const { path } of journal.emptiedFolders) this.gate.removeEmptyFolder(at(path));
  }

  #plan(removed: readonly string[]): Journal {
    const backup = join(this.#work, "backup");
    const places = this.#staged.map((path) => join(this.site, path));
    const moves = [
      ...removed.map((from, index) => ({ from, to: join(backup, String(index)) })),
      ...this.#staged.map((path, index) => ({
        from: join(this.stageFolder, path),
        to: places[index] as string,
      })),
    ];
    const needed = new Set(places.flatMap((place) => this.#foldersAbove(place)));
    const newFolders = [...needed]
      .filter((folder) => !existsSync(folder))
      .sort((a, b) => a.length - b.length);
    const named = (path: string): string => relative(this.site, path);
    return {
      version: 2,
      moves: moves.map(({ from, to }) => ({ from: named(from), to: named(to) })),
      newFolders: newFolders.map(named),
      emptiedFolders: this.#emptied(removed, needed).map(({ path, mode }) => ({ path: named(path), mode })),
    };
  }

  /** Folders between a file and site-packages, which itself stays. */
  #foldersAbove(file: string): string[] {
    const folders: string[] = [];
    for (let folder = dirname(file); this.#inside(folder); folder = dirname(folder)) folders.push(folder);
    return folders;
  }

  #inside(folder: string): boolean {
    const path = relative(this.site, folder);
    return path !== "" && !path.startsWith("..");
  }

  #emptied(removed: readonly string[], needed: ReadonlySet<string>): Journal["emptiedFolders"] {
    const gone = new Set(removed);
    const candidates = [...new Set(removed.flatMap((file) => this.#foldersAbove(file)))];
    const emptied: Journal["emptiedFolders"] = [];
    for (const path of candidates.sort((a, b) => b.length - a.length)) {
      if (needed.has(path) || !existsSync(path)) continue;
      if (!readdirSync(path).every((name) => gone.has(join(path, name)))) continue;
      gone.add(path);
      emptied.push({ path, mode: statSync(path).mode & 0o7777 });
    }
    return emptied;
  }

  /** From here on the change stands; what was moved aside goes. */
  commit(): void {
    this.gate.move(join(this.#work, JOURNAL), join(this.#work, DONE));
    try {
      this.gate.removeTree(this.#work);
    } catch {
      // The change stands; the next kivi that locks the environment removes the rest.
    }
  }

  rollback(): void {
    recover(this.gate, this.site);
  }
}

/** Also a link that leads nowhere is there. */
function isThere(path: string): boolean {
  return lookAt(path) !== undefined;
}

/** What a killed transaction left: a change half done, or only files that were moved aside or staged. */
export function inspectWork(site: string): { path: string; unfinished: boolean } | undefined {
  const path = join(site, WORK);
  if (!isThere(path)) return undefined;
  return { path, unfinished: existsSync(join(path, JOURNAL)) && !existsSync(join(path, DONE)) };
}

/**
 * Takes back what an unfinished transaction did, or finishes the clean-up of a finished one; safe to call twice, and
 * when there is nothing to do. Tells whether a change was taken back.
 */
export function recover(gate: FileGate, site: string): boolean {
  const work = join(site, WORK);
  const path = join(work, JOURNAL);
  const found = inspectWork(site);
  const undo = found?.unfinished === true;
  if (undo) takeBack(gate, site, path, readJournal(work, JOURNAL, site));
  if (found !== undefined) {
    // The journal goes first: without it, what remains of the work folder is only rubbish.
    if (undo) gate.removeFile(path);
    gate.removeTree(work);
  }
  return undo;
}

/** Each path is looked at once more when its turn comes: what was moved before may have made a link of its folder. */
function takeBack(gate: FileGate, site: string, file: string, journal: Journal): void {
  const place = (path: string): string => placeOf(path, site, file);
  for (const { path, mode } of [...journal.emptiedFolders].reverse()) {
    if (!existsSync(place(path))) gate.makeFolder(place(path), mode);
  }
  for (const { from, to } of [...journal.moves].reverse()) {
    if (!isThere(place(from)) && isThere(place(to))) gate.move(place(to), place(from));
  }
  for (const path of [...journal.newFolders].reverse()) {
    const folder = folderOf(path, site, file);
    if (!existsSync(folder)) continue;
    const cache = join(folder, "__pycache__");
    if (existsSync(cache)) gate.removeTree(cache);
    // Something that is not ours appeared meanwhile: it stays.
    if (readdirSync(folder).length === 0) gate.removeEmptyFolder(folder);
  }
}
