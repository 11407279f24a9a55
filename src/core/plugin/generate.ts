import { readdirSync, statSync } from "node:fs";
import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import type { Context } from "../../shared/context.js";
import { environmentError, systemCode, usageError } from "../../shared/errors.js";
import type { Plan } from "../../shared/plan.js";
import { assembleDeployment, type DeployOptions } from "../deploy/index.js";
import { assembleProject, type PluginProject, type ProjectFile } from "./project.js";
import { buildWheel, wheelBytes } from "./wheel.js";

export interface GenerateReport {
  path: string;
  version: string;
  files: string[];
}

export interface GeneratePlan extends Plan {
  report(): GenerateReport;
}

function checkTarget(path: string): void {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return;
  if (!stat.isDirectory())
    throw usageError("not-a-folder", `${path} is not a folder.`, "Name a new or empty folder.");
  const [first] = readdirSync(path);
  if (first === undefined) return;
  throw usageError(
    "folder-not-empty",
    `${path} is not empty (it holds ${first}).`,
    "Name a new or empty folder.",
  );
}

async function writeAll(folder: string, files: readonly ProjectFile[]): Promise<void> {
  for (const { path, data } of files) {
    const target = join(folder, path);
    await mkdir(dirname(target), { recursive: true });
    await writeFile(target, data, { flag: "wx" });
  }
}

interface GenerateOptions {
  readonly wheel?: boolean;
  readonly deploy?: DeployOptions | undefined;
}

async function assemble(
  context: Context,
  project: PluginProject,
  { wheel, deploy }: GenerateOptions,
): Promise<readonly ProjectFile[]> {
  if (deploy !== undefined) return assembleDeployment(context.paths, project, deploy);
  if (!wheel) return project.files;
  const built = buildWheel(project);
  return [...project.files, { path: `dist/${built.fileName}`, data: wheelBytes(built) }];
}

/** The actions that write the plugin project out, or a deployment with it, complete or not at all. */
export async function planGenerate(
  context: Context,
  folder: string,
  options: GenerateOptions = {},
): Promise<GeneratePlan> {
  const path = resolve(context.cwd, folder);
  checkTarget(path);
  const project = await assembleProject(context.paths, context.version);
  const files = await assemble(context, project, options);
  const staged = `${path}.${process.pid}.tmp`;
  return {
    title: `Write ${options.deploy === undefined ? "the plugin project" : "a deployment of the plugin"} ${project.version} to ${path}`,
    report: () => ({ path, version: project.version, files: files.map((file) => file.path) }),
    actions: [
      {
        title: `Write ${files.length} files`,
        path,
        readOnly: false,
        run: async () => {
          try {
            await writeAll(staged, files);
            await rm(path, { recursive: true, force: true });
            await rename(staged, path);
          } catch (error) {
            throw environmentError(
              "cannot-write",
              `${path} cannot be written (${systemCode(error)}).`,
              "Name a folder that you may write to.",
              { cause: error },
            );
          }
        },
        undo: () => rm(staged, { recursive: true, force: true }),
      },
    ],
  };
}
