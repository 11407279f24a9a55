/** Capacity on paper: what a GPU would hold of a model with each cache. */
export { type CapacityPlan, type PlanRequest, planCapacity } from "./capacity.js";
export { GPU_NAMES, GPUS, type GpuName } from "./gpus.js";
export { type ModelShape, readModel } from "./model.js";
export { type ModelSource, openModel } from "./source.js";
export { estimateWeights, type Weights } from "./weights.js";
