// `npm run release`: makes and checks what is published, in dist.release/; `-- --dry-run` checks the same and leaves nothing.
// It publishes nothing by itself: the last lines say how.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { pythonVersion } from "../dist/core/plugin/distribution.js";
import { assembleProject } from "../dist/core/plugin/project.js";
import { buildWheel, wheelBytes } from "../dist/core/plugin/wheel.js";
import { KiviError } from "../dist/shared/errors.js";
import { resolvePaths } from "../dist/shared/paths.js";
import { differences, expectedNpmFiles, expectedWheelFiles } from "./contents.mjs";
import { billProblems, billsOfMaterials } from "./sbom.mjs";
import { smokeTest } from "./smoke.mjs";
import { output, ReleaseError, root } from "./tools.mjs";
import { readVersions, versionProblems } from "./versions.mjs";

const say = (text) => console.log(text);

function require(problems) {
  if (problems.length > 0) throw new ReleaseError(problems.join("\n"));
}

function requireCommitted() {
  const changed = output(["git", "status", "--porcelain"]).trim();
  if (changed !== "") throw new ReleaseError(`these files are not committed:\n${changed}`);
}

/** npm's package in the folder, its contents checked. */
function packNpm(folder) {
  const argv = ["npm", "pack", "--json", "--ignore-scripts", "--pack-destination", folder];
  const [packed] = JSON.parse(output(argv));
  require(
    differences(
      "the npm package",
      packed.files.map(({ path }) => path),
      expectedNpmFiles(),
    ),
  );
  say(`npm package: ${packed.filename}, ${packed.files.length} files as listed`);
  return join(folder, packed.filename);
}

/** The plugin's wheel in the folder, its contents checked, and read by Python's own zipfile. */
function packWheel(folder, project) {
  const wheel = buildWheel(project);
  const path = join(folder, wheel.fileName);
  writeFileSync(path, wheelBytes(wheel));
  const names = JSON.parse(
    output([
      "python3",
      "-I",
      "-c",
      "import json, sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); assert z.testzip() is None; print(json.dumps(z.namelist()))",
      path,
    ]),
  );
  require(differences("the wheel", names, expectedWheelFiles(wheel.version)));
  say(`wheel: ${wheel.fileName}, ${names.length} files as listed`);
  return path;
}

async function release(folder) {
  const versions = readVersions();
  require(versionProblems(versions, pythonVersion));
  const { version } = JSON.parse(versions.manifest);
  say(`version: ${version}, the same in package.json, its lock, the plugin and the changelog`);
  const project = await assembleProject(resolvePaths(process.env), version);
  const files = [packNpm(folder), packWheel(folder, project)];
  const bills = await billsOfMaterials(project, version);
  require(billProblems(bills, version, project.version));
  for (const [name, bill] of Object.entries(bills)) {
    files.push(join(folder, name));
    writeFileSync(files.at(-1), `${JSON.stringify(bill, null, 2)}\n`);
    say(`bill of materials: ${name}, ${bill.components?.length ?? 0} components`);
  }
  smokeTest(files[0], version);
  say("the packed kivi runs with npm exec in an empty home");
  const sums = files.map(
    (path) =>
      `${createHash("sha256").update(readFileSync(path)).digest("hex")}  ${path.slice(folder.length + 1)}\n`,
  );
  writeFileSync(join(folder, "SHA256SUMS"), sums.join(""));
  return { version, npm: files[0], wheel: files[1] };
}

async function main() {
  const { values } = parseArgs({ options: { "dry-run": { type: "boolean" } } });
  if (values["dry-run"]) {
    const folder = mkdtempSync(join(tmpdir(), "kivi-release-"));
    try {
      await release(folder);
    } finally {
      rmSync(folder, { recursive: true });
    }
    return say("dry run: everything is in order, and nothing is left");
  }
  requireCommitted();
  const folder = join(root, "dist.release");
  if (existsSync(folder)) rmSync(folder, { recursive: true });
  mkdirSync(folder);
  const { version, npm, wheel } = await release(folder);
  say(`\nTo publish:\n  git tag v${version} && git push --tags\n  npm publish ${npm}\n  uv publish ${wheel}`);
}

try {
  await main();
} catch (error) {
  if (
    !(error instanceof ReleaseError || error instanceof KiviError || error.code?.startsWith("ERR_PARSE_ARGS"))
  )
    throw error;
  console.error(`error: ${error.message}${error.hint ? `\nnext:  ${error.hint}` : ""}`);
  process.exitCode = error.code?.startsWith("ERR_PARSE_ARGS") ? 2 : 1;
}
