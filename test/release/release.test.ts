/** The release as `npm run release -- --dry-run` checks it, and what must stop one. */
import { join } from "node:path";
import { execa } from "execa";
import { describe, expect, it } from "vitest";
// @ts-expect-error: a script of the repository, without types
import { npmFindings, pythonFindings } from "../../release/audit.mjs";
// @ts-expect-error: a script of the repository, without types
import { differences, expectedNpmFiles } from "../../release/contents.mjs";
// @ts-expect-error: a script of the repository, without types
import { billProblems } from "../../release/sbom.mjs";
// @ts-expect-error: a script of the repository, without types
import { readVersions, versionProblems } from "../../release/versions.mjs";
import { pythonVersion } from "../../src/core/plugin/distribution.js";
import { repository } from "../helpers/cli.js";

type Versions = Record<"manifest" | "lock" | "plugin" | "changelog", string>;

describe("a release", () => {
  it("is in order: versions, contents, bills of materials, npm exec in an empty home", async () => {
    const argv = [join(repository, "release", "release.mjs"), "--dry-run"];
    const { all, exitCode } = await execa(process.execPath, argv, { all: true, reject: false });
    expect({ exitCode, all }).toMatchObject({
      exitCode: 0,
      all: expect.stringContaining("everything is in order"),
    });
  }, 300_000);

  it.each<[string, (versions: Versions) => Partial<Versions>]>([
    ["package-lock.json has 0.1.0", ({ manifest }) => ({ manifest: manifest.replace('"0.1.0"', '"0.2.0"') })],
    ["version.py has 0.0.9", ({ plugin }) => ({ plugin: plugin.replace("0.1.0", "0.0.9") })],
    ["version.py has undefined", () => ({ plugin: "" })],
    [
      "CHANGELOG.md begins with 0.0.9",
      ({ changelog }) => ({ changelog: changelog.replace("## 0.1.0", "## 0.0.9") }),
    ],
    [
      "CHANGELOG.md says nothing of 0.1.0",
      () => ({ changelog: "# Changes\n\n## 0.1.0\n\n## 0.0.9\n\n- old\n" }),
    ],
    ["CHANGELOG.md begins with undefined", () => ({ changelog: "" })],
  ])("stops where %s", (problem, change) => {
    const versions = readVersions() as Versions;
    expect(versionProblems(versions, pythonVersion)).toEqual([]);
    const problems = versionProblems({ ...versions, ...change(versions) }, pythonVersion) as string[];
    expect(problems.join("\n")).toContain(problem);
  });

  it("stops where a file is missing from a package or was never listed", () => {
    const expected = expectedNpmFiles() as string[];
    const found = [...expected.filter((path) => path !== "bin/kivi.js"), ".env"];
    expect(differences("the package", found, expected)).toEqual([
      "the package lacks bin/kivi.js",
      "the package holds .env, which release/ does not list",
    ]);
  });

  it("stops where a bill of materials is of something else", () => {
    const component = { name: "h7b", version: "0.1.0" };
    const bills = {
      "a.npm.cdx.json": { bomFormat: "CycloneDX", metadata: { component }, components: [{ name: "x" }] },
    };
    expect(billProblems(bills, "0.1.0", "0.1.0")).toEqual([
      "a.npm.cdx.json is of h7b 0.1.0, not of vllm-kivi 0.1.0",
      "a.npm.cdx.json names no components",
      "a.npm.cdx.json has components without a version: x",
    ]);
  });
});

it("an audit reads what npm and pip-audit find", () => {
  const via = { name: "x", url: "https://github.com/advisories/GHSA-1", title: "bad", severity: "high" };
  const npm = { vulnerabilities: { x: { via: [via] }, y: { via: ["x"] } } };
  expect(npmFindings(npm)).toEqual([{ id: "GHSA-1", text: "npm x: bad (high)" }]);
  const dependencies = [
    { name: "a", version: "1", vulns: [{ id: "PYSEC-1", fix_versions: ["2"] }] },
    { name: "b", version: "1", vulns: [] },
    { name: "c", skip_reason: "not found" },
  ];
  expect(pythonFindings({ dependencies })).toEqual({
    findings: [{ id: "PYSEC-1", text: "PyPI a 1: fixed in 2" }],
    skipped: ["c"],
    audited: 2,
  });
});
