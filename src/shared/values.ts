/**
 * Strict readers for option values. The command line gives strings; `Number("12x")` and friends must never
 * turn into NaN that later passes a comparison, so each reader accepts exact spellings only.
 */
import { z } from "zod";
import { didYouMean } from "./suggest.js";

interface Range {
  min?: number;
  max?: number;
}

function rangeWords({ min, max }: Range): string {
  if (min !== undefined && max !== undefined) return ` from ${min} to ${max}`;
  if (min !== undefined) return ` of at least ${min}`;
  if (max !== undefined) return ` of at most ${max}`;
  return "";
}

function numeric(pattern: RegExp, noun: string, range: Range) {
  return z.union([z.string(), z.number()]).transform((value, context) => {
    const text = String(value).trim();
    const number = pattern.test(text) ? Number(text) : Number.NaN;
    const inside =
      Number.isFinite(number) && number >= (range.min ?? -Infinity) && number <= (range.max ?? Infinity);
    if (!inside) {
      context.addIssue({ code: "custom", message: `expected ${noun}${rangeWords(range)}, found "${value}"` });
      return z.NEVER;
    }
    return number;
  });
}

/** A whole number in plain decimal digits. */
export function integer(range: Range = {}) {
  return numeric(/^-?\d+$/, "a whole number", range);
}

/** A decimal number; exponents allowed, NaN and infinities are not. */
export function decimal(range: Range = {}) {
  return numeric(/^-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i, "a number", range);
}

/** One of a closed list of words, with a suggestion for slips. */
export function choice<const T extends readonly [string, ...string[]]>(values: T) {
  return z.string().transform((value, context): T[number] => {
    if ((values as readonly string[]).includes(value)) return value as T[number];
    context.addIssue({
      code: "custom",
      message: `expected one of ${values.join(", ")}, found "${value}".${didYouMean(value, values)}`,
    });
    return z.NEVER;
  });
}

/** A comma-separated list of words from a closed list, without repeats. */
export function choiceList<const T extends readonly [string, ...string[]]>(values: T) {
  return z.string().transform((text, context): T[number][] => {
    const words = text.split(",").map((word) => word.trim());
    for (const word of words) {
      if ((values as readonly string[]).includes(word)) continue;
      context.addIssue({
        code: "custom",
        message: `expected a comma-separated list of ${values.join(", ")}, found "${word}".${didYouMean(word, values)}`,
      });
      return z.NEVER;
    }
    return [...new Set(words as T[number][])];
  });
}

/** A list of whole numbers, without repeats: `512,1024`, or a list in a file's own type. */
export function integerList(range: Range = {}) {
  const one = integer(range);
  return z
    .union([z.string(), z.number(), z.array(z.union([z.string(), z.number()])).min(1)])
    .transform((value, context): number[] => {
      const words = typeof value === "string" ? value.split(",") : [value].flat();
      const numbers = words.flatMap((word) => {
        const read = one.safeParse(word);
        if (read.success) return [read.data];
        for (const { message } of read.error.issues) context.addIssue({ code: "custom", message });
        return [];
      });
      return [...new Set(numbers)];
    });
}

/** A name that is no longer taken: any value is refused, with what to write instead. */
export function retired(message: string) {
  return z.never({ error: message }).optional();
}

const BYTE_UNITS: Record<string, number> = {
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};

/** A size with its unit written out ("80GiB", "1.5 GB"); a bare number is refused as ambiguous. */
export function byteSize() {
  return z.string().transform((text, context) => {
    const match = /^(\d+(?:\.\d+)?)\s*([KMGT]?i?B)$/.exec(text.trim());
    const unit = match?.[2] === undefined ? undefined : BYTE_UNITS[match[2]];
    if (!match || unit === undefined || Number(match[1]) <= 0) {
      context.addIssue({ code: "custom", message: `expected a size such as 80GiB or 16GB, found "${text}"` });
      return z.NEVER;
    }
    return Math.floor(Number(match[1]) * unit);
  });
}
