export { type CreateOptions, createEnvironment, planEnvironment } from "./create.js";
export { DEFAULT_VLLM, SUPPORTED_VLLM, TESTED_ON_CPU, versionInRange } from "./supported.js";
export {
  type InstalledVllm,
  openVenv,
  requireVenvFolder,
  requireVllm,
  resolveVenvPath,
  type Venv,
} from "./venv.js";
