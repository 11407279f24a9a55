import { existsSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type FileGate, fileGate } from "../../src/core/plugin/files.js";
import type { ProjectFile } from "../../src/core/plugin/project.js";
import { recover, Transaction } from "../../src/core/plugin/transaction.js";
import { temporaryFolder } from "../helpers/cli.js";
import { treeOf } from "../helpers/tree.js";

const NEW: ProjectFile[] = [
  { path: "vllm_kivi/__init__.py", data: Buffer.from("new") },
  { path: "vllm_kivi/kernels/decode.py", data: Buffer.from("new kernel") },
  { path: "vllm_kivi-2.dist-info/RECORD", data: Buffer.from("record") },
];

/** A site-packages with version 1 of the package, its caches, a file of the user's, and a neighbour. */
function makeSite(): { site: string; old: string[] } {
  const site = join(temporaryFolder(), "site");
  const old = [
    "vllm_kivi/__init__.py",
    "vllm_kivi/legacy/a.py",
    "vllm_kivi/__pycache__/x.pyc",
    "vllm_kivi-1.dist-info/RECORD",
  ];
  for (const path of [...old, "vllm_kivi/notes.txt", "neighbour/__init__.py"]) {
    mkdirSync(join(site, path, ".."), { recursive: true });
    writeFileSync(join(site, path), `old ${path}`);
  }
  return { site, old: old.map((path) => join(site, path)) };
}

class Fault extends Error {
  readonly code = "ENOSPC";
}

/** Lets the first `allowed` writes through and fails the rest of the operations, or just the next one. */
function failing(allowed: number, forEver: boolean): FileGate & { used(): number } {
  let used = 0;
  const wrap =
    <A extends unknown[]>(operation: (...args: A) => void) =>
    (...args: A): void => {
      used += 1;
      if (used === allowed + 1 || (forEver && used > allowed)) throw new Fault("no space");
      operation(...args);
    };
  return {
    makeFolder: wrap(fileGate.makeFolder),
    write: wrap(fileGate.write),
    move: wrap(fileGate.move),
    removeFile: wrap(fileGate.removeFile),
    removeEmptyFolder: wrap(fileGate.removeEmptyFolder),
    removeTree: wrap(fileGate.removeTree),
    used: () => used,
  };
}

function replace(gate: FileGate, site: string, old: string[]): void {
  const transaction = new Transaction(gate, site);
  transaction.stage(NEW);
  transaction.swap(old);
  transaction.commit();
}

function countOperations(): number {
  const gate = failing(Number.POSITIVE_INFINITY, false);
  const { site, old } = makeSite();
  replace(gate, site, old);
  return gate.used();
}

describe("Transaction", () => {
  it("replaces the old files with the new and leaves everything else", () => {
    const { site, old } = makeSite();
    replace(fileGate, site, old);
    expect(readdirSync(site).sort()).toEqual(["neighbour", "vllm_kivi", "vllm_kivi-2.dist-info"]);
    expect(readdirSync(join(site, "vllm_kivi")).sort()).toEqual(["__init__.py", "kernels", "notes.txt"]);
  });

  const total = countOperations();
  const steps = Array.from({ length: total }, (_, index) => index);

  it.each(steps)(
    "failing once at operation %i of the change: rollback gives the tree of before",
    (allowed) => {
      const { site, old } = makeSite();
      const before = treeOf(site);
      const transaction = new Transaction(failing(allowed, false), site);
      let committed = false;
      try {
        transaction.stage(NEW);
        transaction.swap(old);
        transaction.commit();
        committed = true;
      } catch (error) {
        expect(error).toBeInstanceOf(Fault);
        transaction.rollback();
      }
      // Only the very last operation, the clean-up after the change stands, may fail without consequence.
      expect(committed).toBe(allowed === total - 1);
      if (!committed) expect(treeOf(site)).toEqual(before);
    },
  );

  it.each(steps)(
    "killed at operation %i: recovery by a later process gives the old tree or the new",
    (allowed) => {
      const { site, old } = makeSite();
      const before = treeOf(site);
      const reference = makeSite();
      replace(fileGate, reference.site, reference.old);
      try {
        replace(failing(allowed, true), site, old);
      } catch (error) {
        expect(error).toBeInstanceOf(Fault);
      }
      recover(fileGate, site);
      const expected = allowed === total - 1 ? treeOf(reference.site) : before;
      expect(treeOf(site)).toEqual(expected);
      expect(recover(fileGate, site)).toBe(false);
    },
  );

  it.each([
    ["a path that goes up", { moves: [{ from: "../victim", to: ".kivi-work/backup/0" }] }],
    ["a path that goes up later", { moves: [{ from: "a", to: "vllm_kivi/../../victim" }] }],
    ["an absolute path", { moves: [{ from: "/tmp/victim", to: ".kivi-work/backup/0" }] }],
    ["site-packages itself", { moves: [{ from: ".", to: "a" }] }],
    ["a folder above", { newFolders: [".."] }],
    ["a path through a link", { moves: [{ from: "link/victim", to: ".kivi-work/backup/0" }] }],
    ["a link for a folder", { newFolders: ["link"] }],
    ["a link for an emptied folder", { emptiedFolders: [{ path: "link", mode: 0o755 }] }],
    ["a mode that is none", { emptiedFolders: [{ path: "a", mode: -1 }] }],
    ["another version", { version: 1 }],
    ["more than it may", { run: "sh" }],
    ["a byte that ends a path", { newFolders: ["a\0b"] }],
  ])("refuses a journal with %s, and changes nothing", (_, part) => {
    const { site } = makeSite();
    const outside = temporaryFolder();
    for (const path of [join(outside, "victim"), join(site, "..", "victim")]) writeFileSync(path, "precious");
    symlinkSync(outside, join(site, "link"));
    mkdirSync(join(site, ".kivi-work", "backup"), { recursive: true });
    writeFileSync(join(site, ".kivi-work", "backup", "0"), "planted");
    const journal = { version: 2, moves: [], newFolders: [], emptiedFolders: [], ...part };
    writeFileSync(join(site, ".kivi-work", "journal.json"), JSON.stringify(journal));
    const before = [treeOf(site), treeOf(outside)];
    expect(() => recover(fileGate, site)).toThrow(expect.objectContaining({ code: "journal-refused" }));
    expect([treeOf(site), treeOf(outside)]).toEqual(before);
  });

  it("refuses a path that becomes one through a link while a journal is taken back", () => {
    const { site } = makeSite();
    const outside = temporaryFolder();
    mkdirSync(join(site, ".kivi-work", "backup"), { recursive: true });
    symlinkSync(outside, join(site, ".kivi-work", "backup", "1"));
    writeFileSync(join(site, ".kivi-work", "backup", "0"), "planted");
    const moves = [
      { from: "new/planted", to: ".kivi-work/backup/0" },
      { from: "new", to: ".kivi-work/backup/1" },
    ];
    const journal = { version: 2, moves, newFolders: [], emptiedFolders: [] };
    writeFileSync(join(site, ".kivi-work", "journal.json"), JSON.stringify(journal));
    expect(() => recover(fileGate, site)).toThrow(expect.objectContaining({ code: "journal-refused" }));
    expect(readdirSync(outside)).toEqual([]);
  });

  it.each(["folder", "file"])(
    "refuses a journal whose %s is a link, and removes no more than a link",
    (kind) => {
      const { site } = makeSite();
      const outside = temporaryFolder();
      const journal = { version: 2, moves: [], newFolders: [], emptiedFolders: [] };
      writeFileSync(join(outside, "journal.json"), JSON.stringify(journal));
      const work = join(site, ".kivi-work");
      if (kind === "folder") symlinkSync(outside, work);
      else {
        mkdirSync(work);
        symlinkSync(join(outside, "journal.json"), join(work, "journal.json"));
      }
      expect(() => recover(fileGate, site)).toThrow(expect.objectContaining({ code: "journal-refused" }));
      if (kind === "file") rmSync(join(work, "journal.json"));
      else writeFileSync(join(outside, "done.json"), "{}");
      expect(recover(fileGate, site)).toBe(false);
      expect(existsSync(join(outside, "journal.json"))).toBe(true);
      expect(existsSync(work)).toBe(false);
    },
  );

  it.each([0, 1, 2, 3, 5, 8])(
    "a recovery that is itself killed after %i operations can be repeated",
    (allowed) => {
      const { site, old } = makeSite();
      const before = treeOf(site);
      const transaction = new Transaction(fileGate, site);
      transaction.stage(NEW);
      transaction.swap(old);
      try {
        recover(failing(allowed, true), site);
      } catch (error) {
        expect(error).toBeInstanceOf(Fault);
      }
      recover(fileGate, site);
      expect(treeOf(site)).toEqual(before);
    },
  );
});
