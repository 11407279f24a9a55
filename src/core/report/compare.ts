import { FACTS, type Fact } from "./facts.js";
import type { ResultSet } from "./result-set.js";

function kindAmong(fact: Fact, sets: readonly ResultSet[]): Fact["kind"] {
  const { superseded } = fact;
  return superseded !== undefined && sets.every((set) => superseded(set.result)) ? "noted" : fact.kind;
}

/** The facts of one kind in which results differ. What a result does not know cannot differ. */
export function differing(sets: readonly ResultSet[], kind: Fact["kind"]): Fact[] {
  return FACTS.filter((fact) => {
    if (kindAmong(fact, sets) !== kind) return false;
    const known = sets.map((set) => fact.read(set.result)).filter((value) => value !== undefined);
    return new Set(known).size > 1;
  });
}
