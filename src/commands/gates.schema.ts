import { z } from "zod";
import { type Gate, parseGate } from "../core/gates/index.js";

/** What `--fail-if`, which may be repeated, was given. */
export function gateFlags() {
  return z.array(z.string()).transform((texts, context) =>
    texts.flatMap((text): Gate[] => {
      const parsed = parseGate(text);
      if ("gate" in parsed) return [parsed.gate];
      for (const message of parsed.problems) context.addIssue({ code: "custom", message });
      return [];
    }),
  );
}

/** The list `thresholds:` of a file, which reaches a reader joined by commas; no gate holds one. */
export function gateList() {
  return z
    .string()
    .transform((text) => text.split(","))
    .pipe(gateFlags());
}
