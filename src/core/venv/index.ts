export { type CreateOptions, createEnvironment, planEnvironment } from "./create.js";
export { DEFAULT_VLLM, SUPPORTED_VLLM, versionInRange } from "./supported.js";
export {
  type InstalledVllm,
  openVenv,
  requireVenvFolder,
  requireVllm,
  resolveVenvPath,
  type Venv,
} from "./venv.js";
