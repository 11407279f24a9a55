/** The measuring matrix: what `kivi bench` and `kivi demo` run. */
export { BASELINE, CACHE_NAMES, type CacheName, cacheKind } from "./caches.js";
export {
  completeConfig,
  DEFAULT_SUITES,
  type Device,
  type MatrixConfig,
  type MatrixRequest,
  SUITES,
  type Suite,
} from "./config.js";
export { type BenchResult, benchResultSchema, type Cell, passed, SCHEMA_VERSION } from "./result.js";
export { openResult, readResult } from "./result-file.js";
export {
  type MatrixProgress,
  type OnProgress,
  type PreparedMatrix,
  prepareMatrix,
  runMatrix,
} from "./run.js";
export { parseShape, type Shape, shapeName } from "./shapes.js";
