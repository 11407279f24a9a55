import type { Context } from "../../shared/context.js";
import { environmentError } from "../../shared/errors.js";
import { type Action, execute, type Plan } from "../../shared/plan.js";
import { openVenv, requireVllm, type Venv } from "../venv/venv.js";
import { Change } from "./change.js";
import { DISTRIBUTION } from "./distribution.js";
import { changedFiles, findInstalled, type InstalledPlugin, removableFiles } from "./installed.js";
import { isHalfDone } from "./leftovers.js";
import { assembleProject } from "./project.js";
import { type PluginStatus, requireAllowed, verifyCommand, verifyPlugin } from "./verify.js";
import { buildWheel, installedFiles, type Wheel } from "./wheel.js";

export interface InstallReport {
  /** `unchanged`: the same files were there already. */
  outcome: "installed" | "upgraded" | "reinstalled" | "unchanged";
  version: string;
  previous: string | undefined;
  files: number;
  status: PluginStatus;
  venv: Venv;
}

export interface InstallOptions {
  /** Replace files that were changed by hand. */
  force?: boolean;
  /**
   * The environment is kivi's own: the check may write Python's bytecode caches, which the first start of vLLM then
   * need not make. Elsewhere the check leaves no trace.
   */
  bytecode?: boolean;
}

/** A plan and, once it has run, what it did. */
export interface InstallPlan extends Plan {
  report(): InstallReport;
}

function refuseChanged(venv: Venv, found: InstalledPlugin | undefined, force: boolean): void {
  const changed = found === undefined ? [] : changedFiles(found);
  if (changed.length === 0 || force) return;
  throw environmentError(
    "files-changed-by-hand",
    `These files of ${DISTRIBUTION.name} in ${venv.path} were changed by hand:\n${changed.map((path) => `  ${path}`).join("\n")}`,
    `Keep a copy of them, then replace them: kivi install ${venv.path} --force`,
    { details: { changed } },
  );
}

/**
 * The actions that put the plugin into an environment. kivi places the files itself rather than call uv or pip: only
 * so can an install be taken back exactly, work offline, and need no installer in the environment. The result is an
 * ordinary distribution, which pip and uv list and remove.
 *
 * `path` may not exist yet when earlier actions of the same plan create it.
 */
export async function planInstall(
  context: Context,
  path: string,
  options: InstallOptions & { existing: Venv | undefined },
): Promise<InstallPlan> {
  requireAllowed(context.env);
  const { existing, force = false, bytecode = false } = options;
  if (existing !== undefined) {
    requireVllm(existing);
    // Half a change is taken back under the lock, and looked at after that.
    if (!isHalfDone(existing)) refuseChanged(existing, findInstalled(existing), force);
  }
  const wheel = buildWheel(await assembleProject(context.paths, context.version));
  const state = new InstallState(context, path, existing, wheel, { force, bytecode });
  return {
    title: `Install ${DISTRIBUTION.name} ${wheel.version} into ${path}`,
    actions: state.actions(),
    report: () => state.report(),
  };
}

class InstallState {
  #venv: Venv | undefined;
  #previous: InstalledPlugin | undefined;
  #unchanged = false;
  #status: PluginStatus | undefined;
  readonly #files;
  readonly #change: Change;

  constructor(
    private readonly context: Context,
    private readonly path: string,
    existing: Venv | undefined,
    private readonly wheel: Wheel,
    private readonly options: { force: boolean; bytecode: boolean },
  ) {
    this.#venv = existing;
    this.#files = installedFiles(wheel);
    this.#change = new Change(() => this.#open.sitePackages, `kivi install ${path}`);
  }

  get #open(): Venv {
    if (this.#venv === undefined) throw new Error("the environment is not open");
    return this.#venv;
  }

  actions(): Action[] {
    const where = this.#venv?.sitePackages ?? this.path;
    const python = this.#venv?.python ?? `${this.path}/bin/python`;
    const open: Action = {
      title: "Look at the new environment",
      path: this.path,
      readOnly: true,
      run: async () => {
        this.#venv = await openVenv(this.context, this.path, { unfinished: true });
        requireVllm(this.#venv);
      },
    };
    return [
      ...(this.#venv === undefined ? [open] : []),
      this.#change.lock(where),
      {
        title: `Stage ${this.wheel.fileName} (${this.#files.length} files) and check its hashes`,
        path: where,
        readOnly: false,
        run: () => this.#stage(),
      },
      { title: "Put it in place", path: where, readOnly: false, run: () => this.#swap() },
      {
        title: "Check in a fresh interpreter that vLLM loads it",
        argv: verifyCommand(this.context, python, this.options.bytecode),
        readOnly: true,
        run: async () => {
          this.#status = await verifyPlugin(
            this.context,
            this.#open,
            this.wheel.version,
            this.options.bytecode,
          );
        },
      },
      this.#change.finish(where),
    ];
  }

  async #stage(): Promise<void> {
    // Looked at again under the lock: another kivi may have been here since the plan was made.
    this.#previous = findInstalled(this.#open);
    refuseChanged(this.#open, this.#previous, this.options.force);
    const record = this.#files.at(-1)?.data.toString("utf8");
    this.#unchanged =
      this.#previous !== undefined &&
      this.#previous.record === record &&
      this.#previous.files.every(({ state }) => state === "intact");
    await this.#change.guarded(() => this.#change.transaction.stage(this.#unchanged ? [] : this.#files));
  }

  async #swap(): Promise<void> {
    const removed =
      this.#previous === undefined || this.#unchanged ? [] : removableFiles(this.#previous, true);
    await this.#change.guarded(() => this.#change.transaction.swap(removed));
  }

  report(): InstallReport {
    if (this.#status === undefined) throw new Error("the plan has not run");
    const previous = this.#previous?.version;
    const replaced = previous === this.wheel.version ? "reinstalled" : "upgraded";
    return {
      outcome: this.#unchanged ? "unchanged" : previous === undefined ? "installed" : replaced,
      version: this.wheel.version,
      previous,
      files: this.#files.length,
      status: this.#status,
      venv: this.#open,
    };
  }
}

/** Installs (or upgrades, or finds unchanged) the plugin, and proves that vLLM loads it. */
export async function installPlugin(
  context: Context,
  venv: Venv,
  options: InstallOptions = {},
): Promise<InstallReport> {
  const plan = await planInstall(context, venv.path, { ...options, existing: venv });
  await execute(context, plan);
  return plan.report();
}
