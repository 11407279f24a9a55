/** What runs a server with a KIVI cache in containers: an image, a Compose file, Kubernetes manifests. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Paths } from "../../shared/paths.js";
import { type PluginProject, type ProjectFile, render } from "../plugin/project.js";
import { DEFAULT_VLLM } from "../venv/supported.js";
import { composePlaces } from "./compose.js";
import { kubernetesPlaces } from "./kubernetes.js";
import type { DeployOptions } from "./options.js";
import { fillIn } from "./yaml.js";

export type { DeployOptions } from "./options.js";

/** The files of a deployment; the image is built from the plugin project beside them. */
export async function assembleDeployment(
  paths: Paths,
  project: PluginProject,
  options: DeployOptions,
): Promise<ProjectFile[]> {
  const file = async (
    path: string,
    fill: (template: string, where: string) => string,
  ): Promise<ProjectFile> => {
    const where = join(paths.templates, "deploy", path);
    return { path, data: Buffer.from(fill(await readFile(where, "utf8"), where)) };
  };
  return [
    await file("Dockerfile", (template, where) => render(template, { vllm: DEFAULT_VLLM }, where)),
    await file("compose.yaml", (template, where) => fillIn(template, composePlaces(options), where)),
    await file("kubernetes.yaml", (template, where) => fillIn(template, kubernetesPlaces(options), where)),
    ...project.files.map(({ path, data }) => ({ path: `plugin/${path}`, data })),
  ];
}
