const GIB = 2 ** 30;

/** Memory of a GPU as a CUDA program sees it, which is less than its label says. */
export const GPUS = {
  a10g: 22.0 * GIB,
  "a100-40": 39.4 * GIB,
  "a100-80": 79.2 * GIB,
  h100: 79.1 * GIB,
  h200: 139.8 * GIB,
  b200: 178.4 * GIB,
  l4: 22.0 * GIB,
  l40s: 44.4 * GIB,
  rtx3090: 23.6 * GIB,
  rtx4090: 23.6 * GIB,
  rtx5090: 31.4 * GIB,
  rtxpro6000: 95.0 * GIB,
} as const;

export type GpuName = keyof typeof GPUS;
export const GPU_NAMES = Object.keys(GPUS) as [GpuName, ...GpuName[]];
