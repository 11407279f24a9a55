import { parseAllDocuments } from "yaml";
import { internalError } from "../../shared/errors.js";

/** The values for the places of one document that its template leaves `null`, by path. */
export type Places = readonly (readonly [path: readonly (string | number)[], value: unknown])[];

/**
 * A YAML template with its places filled in, document by document; its comments stay. Strings are quoted whatever is in
 * them: readers disagree on which bare words are strings (`yes`, `1e3`).
 */
export function fillIn(template: string, documents: readonly Places[], where: string): string {
  const parsed = parseAllDocuments(template);
  if ("empty" in parsed) throw internalError("template-empty", `${where}: no document`);
  documents.forEach((places, index) => {
    const document = parsed[index];
    for (const [path, value] of places) {
      // Such a place is not there to be filled in.
      if (document?.getIn(path) !== null) {
        throw internalError("template-key", `${where}: document ${index} has no null at ${path.join(".")}`);
      }
      document.setIn(path, document.createNode(value));
    }
  });
  const style = { defaultStringType: "QUOTE_DOUBLE", defaultKeyType: "PLAIN", lineWidth: 0 } as const;
  return parsed.map((document) => document.toString(style)).join("");
}
