/** Gates: conditions under which measured figures fail a run. */
export { configDifferences, differences } from "./comparable.js";
export { requireAlike, requireBaseline, requireCaches, requireCoverage } from "./coverage.js";
export { comparedCaches } from "./figures.js";
export { type GateReport, held, judge, type Verdict } from "./judge.js";
export type { Metric } from "./metric.js";
export { METRICS } from "./metrics.js";
export { type Gate, parseGate } from "./parse.js";
