import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  renameSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { environmentError, type KiviError, systemCode } from "../../shared/errors.js";

/** Every write to an environment goes through here; tests make single writes fail. */
export interface FileGate {
  makeFolder(path: string, mode?: number): void;
  write(path: string, data: Uint8Array): void;
  move(from: string, to: string): void;
  removeFile(path: string): void;
  removeEmptyFolder(path: string): void;
  /** Removes a folder of our own with all in it. */
  removeTree(path: string): void;
}

/** Synchronous on purpose: between two moves no signal handler of ours can run. */
export const fileGate: FileGate = {
  makeFolder: (path, mode) => void mkdirSync(path, mode === undefined ? {} : { mode }),
  write: (path, data) => {
    const file = openSync(path, "wx", 0o644);
    try {
      writeFileSync(file, data);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
  },
  move: (from, to) => renameSync(from, to),
  removeFile: (path) => rmSync(path, { force: true }),
  removeEmptyFolder: (path) => rmdirSync(path),
  removeTree: (path) => rmSync(path, { recursive: true, force: true }),
};

/** Makes the folders that are missing down to `path`, outermost first, and tells which. */
export function makeFolders(gate: FileGate, path: string): string[] {
  if (existsSync(path)) return [];
  const made = makeFolders(gate, dirname(path));
  gate.makeFolder(path);
  return [...made, path];
}

/** The user's view of a write that the system refused. */
export async function explainWriteError(
  error: unknown,
  sitePackages: string,
  next: string,
): Promise<unknown> {
  const code = systemCode(error);
  if (code === "ENOSPC" || code === "EDQUOT") return diskFull(error, sitePackages, next);
  if (code === "EACCES" || code === "EROFS" || code === "EPERM") {
    return environmentError(
      "site-packages-read-only",
      `${sitePackages} cannot be written (${code}).`,
      `Run as the owner of the environment, or use one of your own: kivi install --create PATH --device cpu|cuda`,
      { cause: error },
    );
  }
  return error;
}

async function diskFull(cause: unknown, sitePackages: string, next: string): Promise<KiviError> {
  const free = await statfs(sitePackages).then(
    ({ bavail, bsize }) => `${Math.floor((bavail * bsize) / 1024)} KiB free`,
    () => "no space",
  );
  return environmentError(
    "disk-full",
    `The disk that holds ${sitePackages} is full (${free}); the environment is as it was.`,
    `Free some space there, then run: ${next}`,
    { cause },
  );
}
