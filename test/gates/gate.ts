import { type Gate, parseGate } from "../../src/core/gates/index.js";

export function gate(text: string): Gate {
  const parsed = parseGate(text);
  if ("gate" in parsed) return parsed.gate;
  throw new Error(parsed.problems.join("\n"));
}

export function problemsOf(text: string): string {
  const parsed = parseGate(text);
  return "gate" in parsed ? "" : parsed.problems.join("\n");
}
