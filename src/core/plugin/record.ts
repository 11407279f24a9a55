import { createHash } from "node:crypto";

/** A line of a RECORD file: path relative to site-packages, hash and size (both absent for RECORD itself). */
export interface RecordEntry {
  readonly path: string;
  readonly hash: string | undefined;
  readonly size: number | undefined;
}

/** As RECORD writes it: URL-safe base64 without padding. */
export function recordHash(data: Uint8Array, algorithm = "sha256"): string {
  return `${algorithm}=${createHash(algorithm).update(data).digest("base64url")}`;
}

function quote(field: string): string {
  return /[",\r\n]/.test(field) ? `"${field.replaceAll('"', '""')}"` : field;
}

export function writeRecord(entries: readonly RecordEntry[]): string {
  return entries.map(({ path, hash, size }) => `${quote(path)},${hash ?? ""},${size ?? ""}\n`).join("");
}

function splitLine(line: string): string[] {
  const fields: string[] = [];
  for (const match of line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)) {
    fields.push(match[1]?.replaceAll('""', '"') ?? match[2] ?? "");
  }
  return fields;
}

/** What installers write (PEP 376 asks for one of these at least as strong as sha256). */
const HASH = /^sha(256|384|512)=/;

/** Reads RECORD; lines that are not path, hash, size are a fault that the caller reports. */
export function parseRecord(text: string): RecordEntry[] {
  return text
    .split(/\r?\n/)
    .filter((line) => line !== "")
    .map((line) => {
      const [path, hash, size, ...more] = splitLine(line);
      if (!path || hash === undefined || size === undefined || more.length > 0 || !/^\d*$/.test(size)) {
        throw new Error(`unreadable line "${line}"`);
      }
      if (hash !== "" && !HASH.test(hash)) throw new Error(`unknown kind of hash in "${line}"`);
      return { path, hash: hash === "" ? undefined : hash, size: size === "" ? undefined : Number(size) };
    });
}
