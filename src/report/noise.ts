/** Samples that differ by more than this are of a machine that did something else besides. */
const NOISY = 0.15;

/** Whether the least and the most of these differ too much, relative to the middle of the two. */
export function differTooMuch(samples: readonly number[]): boolean {
  const most = Math.max(...samples);
  const least = Math.min(...samples);
  return least <= 0 || (most - least) / ((most + least) / 2) > NOISY;
}
