/** A throughput load: `batch` sequences of `context` prompt tokens, `new` tokens generated for each. */
export interface Shape {
  readonly batch: number;
  readonly context: number;
  readonly new: number;
}

const FORM = /^([1-9]\d{0,5})x([1-9]\d{0,7})\+([1-9]\d{0,5})$/;

/** Reads `4x1024+32`; undefined for any other spelling. */
export function parseShape(text: string): Shape | undefined {
  const match = FORM.exec(text);
  if (match === null) return undefined;
  return { batch: Number(match[1]), context: Number(match[2]), new: Number(match[3]) };
}

export function shapeName(shape: Shape): string {
  return `${shape.batch}x${shape.context}+${shape.new}`;
}
