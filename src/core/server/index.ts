/** One vLLM server with a KIVI cache: what `kivi serve` and `kivi demo` start. */

export { serverEnvironment } from "./environment.js";
export { checkPort, freePort } from "./port.js";
export { checkPlugin, resolveModel, withoutCompiler } from "./preflight.js";
export type { CacheReport } from "./report.js";
export { defaultLogFile, type Server, type StartRequest, startServer } from "./server.js";
export { type ServerSettings, serverCommand } from "./settings.js";
