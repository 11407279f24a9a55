/** What `kivi bench kernels` can measure; what each of them is, kivi_bench/kernels/catalog.py says. */
export const KERNEL_NAMES = [
  "k4v4",
  "fa3-bf16",
  "fa3-fp8",
  "k4v2",
  "k2v2",
  "int4-per-token-head",
  "turboquant-4bit",
  "turboquant-k8v4",
  "k4v4-triton",
  "k4v2-triton",
  "k2v2-triton",
] as const;
export type KernelName = (typeof KERNEL_NAMES)[number];
