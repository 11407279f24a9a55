import { basename, resolve } from "node:path";
import { usageError } from "../../shared/errors.js";
import { oneLine } from "../../shared/one-line.js";
import { openResult } from "../bench/result-file.js";
import { differing } from "./compare.js";
import type { Report, ResultSet } from "./result-set.js";

async function readSet(path: string, name: string): Promise<ResultSet> {
  const result = await openResult(path);
  if (result.cells.length === 0) {
    throw usageError(
      "result-empty",
      `${path} has no cells: kivi bench ended before it measured anything.`,
      "Measure again with kivi bench.",
    );
  }
  return { name, path, result };
}

/** `before.json` is `before`; files of the same name keep their paths. */
function nameSets(files: readonly string[]): string[] {
  const short = files.map((file) => basename(file).replace(/\.json$/i, ""));
  return files.map((file, index) => {
    const own = short[index] as string;
    return short.filter((other) => other === own).length > 1 ? file : own;
  });
}

/** Reads result files, and refuses to put figures side by side that cannot be compared unless `force` is set. */
export async function loadReport(
  files: readonly string[],
  options: { cwd: string; force: boolean },
): Promise<Report> {
  const paths = files.map((file) => resolve(options.cwd, file));
  const twice = files.find((_, index) => paths.indexOf(paths[index] as string) !== index);
  if (twice !== undefined)
    throw usageError("result-twice", `${twice} is given twice.`, "Give each file once.");
  const names = nameSets(files);
  const sets: ResultSet[] = [];
  for (const [index, path] of paths.entries()) sets.push(await readSet(path, names[index] as string));
  const unlike = differing(sets, "decisive");
  if (unlike.length > 0 && !options.force) {
    const differences = unlike.map((fact) => ({
      field: fact.name,
      values: Object.fromEntries(sets.map((set) => [set.name, fact.read(set.result) ?? null])),
    }));
    const lines = differences.map(
      ({ field, values }) =>
        `  ${field}: ${Object.entries(values)
          .map(([name, value]) => `${oneLine(String(value ?? "unknown"))} (${oneLine(name)})`)
          .join(", ")}`,
    );
    throw usageError(
      "results-unlike",
      `These results cannot be compared, since they differ in:\n${lines.join("\n")}`,
      "Report each file by itself, or give --force to see them side by side anyway.",
      { details: { differences } },
    );
  }
  return { sets, unlike, changed: differing(sets, "noted") };
}
