/** Figures as words; every reporter writes them the same way. */

export function whole(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

/** Three significant digits or all whole ones: 0.52, 80.7, 527, 12,345. */
export function figure(value: number): string {
  if (value >= 100) return whole(value);
  return value.toFixed(value >= 10 ? 1 : 2);
}

export function ratio(value: number, base: number): string {
  return `${(value / base).toFixed(2)}x`;
}

/** A relative difference with its sign, in percent. */
export function percent(value: number, base: number): string {
  const difference = 100 * (value / base - 1);
  return `${difference >= 0 ? "+" : ""}${difference.toFixed(2)} %`;
}

/** A share from 0 to 1, in percent. */
export function share(value: number): string {
  return `${(100 * value).toFixed(1)} %`;
}

export function bytes(value: number): string {
  if (value < 0) return `-${bytes(-value)}`;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let left = value;
  while (left >= 1024 && unit < units.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? left : left.toFixed(1)} ${units[unit]}`;
}
