// The version is written in package.json alone. The plugin's sources carry a copy for running from a checkout, rendered as
// the wheel's is: `npm version X` writes it (with --write), and the release checks it, npm's lock and the changelog.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const read = (...path) => readFileSync(join(root, ...path), "utf8");
const PLUGIN = ["python-plugin", "vllm_kivi", "version.py"];
const LINE = /^__version__ = "(.*)"$/m;

/** Problems of a version, in words; none where all places agree. */
export function versionProblems({ manifest, lock, plugin, changelog }, pythonVersion) {
  const { version } = JSON.parse(manifest);
  const locked = JSON.parse(lock);
  const python = pythonVersion(version);
  const [, newest, notes = ""] = /^## (\S+)\n([\s\S]*?)(?=^## |$(?![\s\S]))/m.exec(changelog) ?? [];
  const problems = [];
  for (const found of [locked.version, locked.packages[""].version])
    if (found !== version)
      problems.push(`package-lock.json has ${found}, package.json ${version}: run npm install`);
  const copy = LINE.exec(plugin)?.[1];
  if (copy !== python)
    problems.push(
      `${PLUGIN.join("/")} has ${copy}, package.json ${version} (${python} in Python): run npm run version`,
    );
  if (newest !== version) problems.push(`CHANGELOG.md begins with ${newest}, package.json has ${version}`);
  if (!/^- \S/m.test(notes)) problems.push(`CHANGELOG.md says nothing of ${newest}`);
  return problems;
}

export function readVersions() {
  return {
    manifest: read("package.json"),
    lock: read("package-lock.json"),
    plugin: read(...PLUGIN),
    changelog: read("CHANGELOG.md"),
  };
}

if (import.meta.url === pathToFileURL(process.argv[1]).href && process.argv[2] === "--write") {
  const { assembleProject } = await import("../dist/core/plugin/project.js");
  const { resolvePaths } = await import("../dist/shared/paths.js");
  const { version } = JSON.parse(readVersions().manifest);
  const { files } = await assembleProject(resolvePaths(process.env), version);
  const { data } = files.find(({ path }) => path === "vllm_kivi/version.py");
  writeFileSync(join(root, ...PLUGIN), data);
}
