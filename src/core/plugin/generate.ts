import { readdirSync, statSync } from "node:fs";
import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import type { Context } from "../../shared/context.js";
import { environmentError, systemCode, usageError } from "../../shared/errors.js";
import type { Plan } from "../../shared/plan.js";
import { assembleProject, type ProjectFile } from "./project.js";
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

/** The actions that write the plugin project out, complete or not at all. */
export async function planGenerate(
  context: Context,
  folder: string,
  options: { wheel?: boolean } = {},
): Promise<GeneratePlan> {
  const path = resolve(context.cwd, folder);
  checkTarget(path);
  const project = await assembleProject(context.paths, context.version);
  const wheel = buildWheel(project);
  const extra = options.wheel ? [{ path: `dist/${wheel.fileName}`, data: wheelBytes(wheel) }] : [];
  const files = [...project.files, ...extra];
  const staged = `${path}.${process.pid}.tmp`;
  return {
    title: `Write the plugin project ${project.version} to ${path}`,
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
