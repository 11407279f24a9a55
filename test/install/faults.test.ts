import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { temporaryFolder } from "../helpers/cli.js";
import { makeApp, makeVenv, sitePackages } from "../helpers/stand-in.js";
import { treeOf } from "../helpers/tree.js";

const app = makeApp();

/**
 * Makes an environment's interpreter do something before its n-th start from now on; returns what puts it back. The
 * real one keeps its folder, by which Python knows the environment.
 */
function haunt(venv: string, at: number, deed: string): () => void {
  const python = join(venv, "bin", "python");
  const count = join(temporaryFolder(), "starts");
  renameSync(python, `${python}.real`);
  writeFileSync(
    python,
    `#!/bin/sh\necho >> ${count}\nif [ $(wc -l < ${count}) = ${at} ]; then ${deed}; fi\nexec "$0.real" "$@"\n`,
    { mode: 0o755 },
  );
  return () => {
    rmSync(python);
    renameSync(`${python}.real`, python);
    expect(existsSync(count) ? readFileSync(count, "utf8").length : 0).toBeGreaterThan(0);
  };
}

it.each([
  ["kivi is killed", "kill -9 $PPID; exit 0", { code: undefined }],
  ["the child is killed", "kill -9 $$", { code: 4 }],
  ["the child fails", "exit 1", { code: 4 }],
] as const)("install where at each of its children %s: the next one works", async (_, deed, expected) => {
  let hit = 0;
  for (let at = 1; ; at++) {
    const venv = makeVenv();
    const before = treeOf(venv);
    const calm = haunt(venv, at, deed);
    const result = await app.run(["install", venv, "--json"]);
    calm();
    if (result.code === 0) break; // It started fewer than that.
    hit += 1;
    expect(result).toMatchObject(expected);
    if (result.code !== undefined) {
      expect(JSON.parse(result.stdout).error.message).toContain("python");
      expect(treeOf(venv)).toEqual(before);
    }
    expect((await app.run(["install", venv])).code).toBe(0);
    expect((await app.run(["uninstall", venv])).code).toBe(0);
    expect(treeOf(venv)).toEqual(before);
  }
  expect(hit).toBeGreaterThanOrEqual(2); // who asks what is installed, and who loads the plugin
});

it("installs at once into one environment: one does it, the others do nothing or say who does", async () => {
  const venv = makeVenv();
  const before = treeOf(venv);
  const results = await Promise.all(Array.from({ length: 5 }, () => app.run(["install", venv, "--json"])));
  const outcomes = results.map(({ code, stdout }) => {
    const { outcome, error } = JSON.parse(stdout) as { outcome?: string; error?: { code: string } };
    return `${code} ${outcome ?? error?.code}`;
  });
  expect(outcomes.filter((outcome) => outcome === "0 installed")).toHaveLength(1);
  const others = new Set(outcomes.filter((outcome) => outcome !== "0 installed"));
  expect(
    [...others].filter((outcome) => outcome !== "3 environment-busy" && outcome !== "0 unchanged"),
  ).toEqual([]);
  expect(readdirSync(sitePackages(venv)).filter((name) => name.startsWith(".kivi"))).toEqual([]);
  expect((await app.run(["install", venv, "--json"])).stdout).toContain('"unchanged"');
  expect((await app.run(["uninstall", venv])).code).toBe(0);
  expect(treeOf(venv)).toEqual(before);
});
