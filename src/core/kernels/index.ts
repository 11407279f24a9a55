/** Time of decode attention kernels, without an engine: what `kivi bench kernels` runs. */
export { KERNEL_NAMES, type KernelName } from "./names.js";
export { type KernelsResult, type Measurement, readKernels } from "./result.js";
export { type KernelsRequest, type PreparedKernels, prepareKernels } from "./run.js";
