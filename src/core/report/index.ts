/** Saved results, read and compared for `kivi report`. */
export { FACTS, type Fact, referenceCell } from "./facts.js";
export { loadReport } from "./load.js";
export { qualitySetup } from "./quality-setup.js";
export type { Report, ResultSet } from "./result-set.js";
