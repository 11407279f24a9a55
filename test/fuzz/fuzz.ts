/** Arbitrary input for parsers. Seeds are fixed, so that a run repeats: a failure prints the input that it came from. */
import fc from "fast-check";
import { expect } from "vitest";
import { KiviError } from "../../src/shared/errors.js";

fc.configureGlobal({ seed: 20240205, numRuns: 300 });

/** Text with the characters that formats give a meaning to, and any others. */
export const noise = fc.oneof(
  fc.string({ unit: "binary", maxLength: 60 }),
  fc
    .array(
      fc.constantFrom(
        ..."{}[]:,\"'&*!|>%@`#-?\\/.=<+ \t\n\r\0",
        "..",
        "__proto__",
        "NaN",
        "1e999",
        "null",
        "k4v4",
      ),
      {
        maxLength: 40,
      },
    )
    .map((parts) => parts.join("")),
);

const hostile = fc.oneof(
  fc.constantFrom(null, true, -1, 0.5, 1e308, "", "../../x", "\0", "\u001b[31m", [], {}, ["__proto__"]),
  fc.jsonValue({ maxDepth: 3 }),
);

/** Copies of a JSON document with up to four of its values, at any depth, taken out or replaced. */
export function spoiled(document: unknown): fc.Arbitrary<unknown> {
  const change = fc.record({ at: fc.nat(), value: fc.option(hostile, { nil: undefined }) });
  return fc.array(change, { minLength: 1, maxLength: 4 }).map((changes) => {
    const copy = structuredClone(document);
    for (const { at, value } of changes) {
      const places = placesOf(copy);
      const place = places[at % Math.max(1, places.length)];
      if (place === undefined) continue;
      const { holder, key } = place;
      if (value === undefined) delete holder[key];
      else holder[key] = structuredClone(value);
    }
    return copy;
  });
}

interface Place {
  readonly holder: Record<string, unknown>;
  readonly key: string;
}

function placesOf(value: unknown): Place[] {
  if (typeof value !== "object" || value === null) return [];
  const holder = value as Record<string, unknown>;
  return Object.keys(holder).flatMap((key) => [{ holder, key }, ...placesOf(holder[key])]);
}

/** The result, or undefined where the parser refused with an error of the project's own kind; anything else is a bug. */
export async function resultOrRefusal<T>(parse: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await parse();
  } catch (error) {
    if (!(error instanceof KiviError)) throw error;
    expect(error.exitCode).toBeLessThan(5);
    expect(error.message).not.toBe("");
    return undefined;
  }
}

/** Both outcomes must occur, or the input does not reach what it is for. */
export class Outcomes {
  results = 0;
  refusals = 0;

  count(result: unknown): void {
    if (result === undefined) this.refusals += 1;
    else this.results += 1;
  }

  expectBoth(): void {
    expect(this.results, "inputs with a result").toBeGreaterThan(0);
    expect(this.refusals, "inputs that are refused").toBeGreaterThan(0);
  }
}

export { fc };
