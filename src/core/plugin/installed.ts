import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { environmentError, messageOf } from "../../shared/errors.js";
import type { Venv } from "../venv/venv.js";
import { confined, lookAt } from "./confine.js";
import { DISTRIBUTION } from "./distribution.js";
import { parseRecord, type RecordEntry, recordHash } from "./record.js";

export interface OwnedFile {
  readonly path: string;
  readonly state: "intact" | "changed" | "missing";
}

/** The plugin as it is in an environment, whoever installed it. */
export interface InstalledPlugin {
  readonly version: string;
  readonly distInfo: string;
  /** The text of RECORD: two installs with the same text have the same files. */
  readonly record: string;
  readonly files: readonly OwnedFile[];
  /** What Python, Numba and the like wrote into `__pycache__` folders of the package. */
  readonly caches: readonly string[];
}

/** Tools of other times spelt the folder with a dash or with capitals. */
function distInfoFolders(sitePackages: string): string[] {
  const prefix = `${DISTRIBUTION.fileName}-`;
  return readdirSync(sitePackages).filter((name) => {
    const start = name.slice(0, prefix.length).toLowerCase().replace("vllm-", "vllm_");
    return start === prefix && name.endsWith(".dist-info");
  });
}

function checkedPath(venv: Venv, entry: RecordEntry, record: string): string {
  // The plugin is a package without scripts or data files: all of it is in site-packages.
  const path = confined(entry.path, venv.sitePackages);
  if (path !== undefined && lookAt(path)?.isDirectory() !== true) return path;
  throw environmentError(
    "record-outside-venv",
    `${record} lists ${entry.path}, which is ${path === undefined ? `outside ${venv.sitePackages}` : "a folder"}; nothing was changed.`,
    "RECORD was tampered with, or a folder of the plugin is a link. Look at it, then remove the plugin's files by hand.",
  );
}

function stateOf(path: string, { hash, size }: RecordEntry): OwnedFile["state"] {
  const stat = lookAt(path);
  if (stat === undefined) return "missing";
  if (!stat.isFile()) return "changed";
  if (hash === undefined) return "intact";
  if (size !== undefined && stat.size !== size) return "changed";
  return recordHash(readFileSync(path), hash.split("=")[0]) === hash ? "intact" : "changed";
}

function cachesUnder(files: readonly OwnedFile[]): string[] {
  const folders = new Set(files.filter(({ path }) => path.endsWith(".py")).map(({ path }) => dirname(path)));
  const known = new Set(files.map(({ path }) => path));
  const caches: string[] = [];
  for (const folder of folders) {
    const cache = join(folder, "__pycache__");
    // Behind a link, and so not its own.
    if (lookAt(cache)?.isDirectory() !== true) continue;
    for (const entry of readdirSync(cache, { withFileTypes: true, recursive: true })) {
      const path = join(entry.parentPath, entry.name);
      if (!entry.isDirectory() && !known.has(path)) caches.push(path);
    }
  }
  return caches;
}

/** Finds the plugin by its dist-info and checks each file against RECORD; undefined when it is not installed. */
export function findInstalled(venv: Venv): InstalledPlugin | undefined {
  const [name, ...others] = distInfoFolders(venv.sitePackages);
  if (name === undefined) return undefined;
  const distInfo = join(venv.sitePackages, name);
  if (others.length > 0) {
    throw environmentError(
      "several-installs",
      `${venv.sitePackages} holds ${[name, ...others].join(" and ")}; only one can be right.`,
      `Remove all but one by hand, then run: kivi install ${venv.path}`,
    );
  }
  const recordPath = join(distInfo, "RECORD");
  if (!existsSync(recordPath)) {
    throw environmentError(
      "record-missing",
      `${recordPath} is missing, so it is not known which files belong to ${DISTRIBUTION.name}; nothing was changed.`,
      `Remove them by hand: rm -r ${distInfo} ${join(venv.sitePackages, DISTRIBUTION.package)}`,
    );
  }
  const record = readFileSync(recordPath, "utf8");
  let entries: RecordEntry[];
  try {
    entries = parseRecord(record);
  } catch (error) {
    throw environmentError(
      "record-unreadable",
      `${recordPath}: ${messageOf(error)}; nothing was changed.`,
      `Remove the files by hand: rm -r ${distInfo} ${join(venv.sitePackages, DISTRIBUTION.package)}`,
    );
  }
  const files = entries.map((entry): OwnedFile => {
    const path = checkedPath(venv, entry, recordPath);
    return { path, state: stateOf(path, entry) };
  });
  const version = name.slice(DISTRIBUTION.fileName.length + 1, -".dist-info".length);
  return { version, distInfo, record, files, caches: cachesUnder(files) };
}

const SHOWN_FILES = 5;

/** What of the plugin's files is not as RECORD lists it, and what to run then; undefined when all is. */
export function damageOf(venv: Venv, plugin: InstalledPlugin): { found: string; hint: string } | undefined {
  const bad = plugin.files.filter(({ state }) => state !== "intact");
  if (bad.length === 0) return undefined;
  const named = bad.slice(0, SHOWN_FILES).map(({ path, state }) => `${path} (${state})`);
  const more = bad.length > SHOWN_FILES ? [`and ${bad.length - SHOWN_FILES} more`] : [];
  const changed = bad.some(({ state }) => state === "changed");
  const install = `kivi install ${venv.path}`;
  return {
    found: `not as RECORD lists them: ${[...named, ...more].join(", ")}`,
    hint: changed ? `Keep a copy of what you changed, then replace it: ${install} --force` : install,
  };
}

export function changedFiles(plugin: InstalledPlugin): string[] {
  return plugin.files.filter(({ state }) => state === "changed").map(({ path }) => path);
}

/** Files to remove with the plugin; hand-changed ones only when asked for. */
export function removableFiles(plugin: InstalledPlugin, withChanged: boolean): string[] {
  const own = plugin.files.filter(({ state }) => state === "intact" || (state === "changed" && withChanged));
  return [...own.map(({ path }) => path), ...plugin.caches];
}
