/**
 * Milliseconds left of a matrix, from the cells already measured: a cell takes what the earlier ones took on
 * average. Undefined before the first one is done: nothing is known then.
 */
export function remaining(
  doneMs: readonly number[],
  cells: { left: number; currentElapsedMs: number },
): number | undefined {
  if (doneMs.length === 0) return undefined;
  const mean = doneMs.reduce((sum, ms) => sum + ms, 0) / doneMs.length;
  return Math.max(0, mean - cells.currentElapsedMs) + mean * cells.left;
}
