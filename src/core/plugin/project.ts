import { existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join, relative, sep } from "node:path";
import { internalError } from "../../shared/errors.js";
import type { Paths } from "../../shared/paths.js";
import { DISTRIBUTION, pythonVersion, vllmReleases } from "./distribution.js";

/** A file of the project or the wheel: path with forward slashes, and its bytes. */
export interface ProjectFile {
  readonly path: string;
  readonly data: Buffer;
}

/** The plugin project as it is written out and packaged: sorted, rendered, without caches and tests. */
export interface PluginProject {
  readonly version: string;
  readonly files: readonly ProjectFile[];
}

/** Replaces every `{{name}}`; an unknown name is a fault of the template. */
export function render(template: string, values: Record<string, string>, where: string): string {
  return template.replace(/\{\{(\w+)\}\}/g, (_, name: string) => {
    const value = values[name];
    if (value === undefined) throw internalError("template-key", `${where}: unknown placeholder {{${name}}}`);
    return value;
  });
}

async function sources(folder: string, prefix: string): Promise<ProjectFile[]> {
  const files: ProjectFile[] = [];
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const parts = relative(folder, path).split(sep);
    const skipped = parts.some((part) => part === "tests" || part === "__pycache__" || part.startsWith("."));
    if (skipped || !/\.(py|pyi|cuh?|json|typed)$|^py\.typed$/.test(entry.name)) continue;
    files.push({ path: [prefix, ...parts].join("/"), data: await readFile(path) });
  }
  return files;
}

/** Puts templates, Python sources and Triton kernels together. */
export async function assembleProject(paths: Paths, kiviVersion: string): Promise<PluginProject> {
  const version = pythonVersion(kiviVersion);
  const values = { ...DISTRIBUTION, ...vllmReleases(), version, kiviVersion };
  const template = async (name: string, path: string): Promise<ProjectFile> => {
    const file = join(paths.templates, "plugin", name);
    return { path, data: Buffer.from(render(await readFile(file, "utf8"), values, file)) };
  };
  const versionFile = await template("version.py", `${DISTRIBUTION.package}/version.py`);
  const plugin = await sources(join(paths.pythonPlugin, DISTRIBUTION.package), DISTRIBUTION.package);
  const files = [
    await template("pyproject.toml", "pyproject.toml"),
    await template("README.md", "README.md"),
    { path: "LICENSE", data: await readFile(join(paths.root, "LICENSE")) },
    // The checkout's own version.py is for running from the sources: `npm run version` writes it.
    versionFile,
    ...plugin.filter(({ path }) => path !== versionFile.path),
    ...(existsSync(paths.tritonKernels)
      ? await sources(paths.tritonKernels, `${DISTRIBUTION.package}/kernels`)
      : []),
  ];
  files.sort((a, b) => (a.path < b.path ? -1 : 1));
  files.forEach((file, index) => {
    if (file.path === files[index + 1]?.path) {
      throw internalError("project-clash", `Two sources give ${file.path}.`);
    }
  });
  return { version, files };
}
