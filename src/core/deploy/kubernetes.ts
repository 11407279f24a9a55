import { type DeployOptions, serveArguments } from "./options.js";
import type { Places } from "./yaml.js";

/** What the manifests leave to the options: a claim, a Deployment and a Service, in this order. */
export function kubernetesPlaces(options: DeployOptions): Places[] {
  const container = ["spec", "template", "spec", "containers", 0];
  return [
    [],
    [
      [[...container, "image"], options.image],
      [[...container, "args"], serveArguments(options)],
      [[...container, "ports", 0, "containerPort"], options.port],
      [[...container, "resources", "limits", "nvidia.com/gpu"], String(options.tensorParallel)],
    ],
    [[["spec", "ports", 0, "port"], options.port]],
  ];
}
