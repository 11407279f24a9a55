import { FACTS, type Fact } from "./facts.js";
import type { ResultSet } from "./result-set.js";

/** The facts of one kind in which results differ. What a result does not know cannot differ. */
export function differing(sets: readonly ResultSet[], kind: Fact["kind"]): Fact[] {
  return FACTS.filter((fact) => {
    if (fact.kind !== kind) return false;
    const known = sets.map((set) => fact.read(set.result)).filter((value) => value !== undefined);
    return new Set(known).size > 1;
  });
}
