/** One vLLM server: what `kivi serve`, `kivi demo` and the suite `serve` of `kivi bench` start. */

export { serverEnvironment } from "./environment.js";
export { checkPort, freePort } from "./port.js";
export { checkPlace, checkPlugin, resolveModel, withoutCompiler } from "./preflight.js";
export type { CacheReport } from "./report.js";
export { takeSecrets } from "./secrets.js";
export {
  defaultLogFile,
  type Server,
  type StartRequest,
  startServer,
  startVllm,
  type VllmServer,
} from "./server.js";
export { type ServerSettings, serverCommand } from "./settings.js";
