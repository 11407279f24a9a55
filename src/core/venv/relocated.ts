import { closeSync, openSync, readdirSync, readFileSync, readSync, realpathSync } from "node:fs";
import { basename, dirname, join } from "node:path";

/** As much of a script as its first line, an absolute path, takes. */
const FIRST_LINE_BYTES = 1024;

function interpreterOf(script: string): string | undefined {
  const start = Buffer.alloc(FIRST_LINE_BYTES);
  const file = openSync(script, "r");
  try {
    const line = start.toString("utf8", 0, readSync(file, start)).split("\n")[0] ?? "";
    return /^#!\s*(\/.*\/python[\d.]*)\s*$/.exec(line)?.[1];
  } finally {
    closeSync(file);
  }
}

function activated(bin: string): string | undefined {
  try {
    const text = readFileSync(join(bin, "activate"), "utf8");
    return /^\s*(?:export )?VIRTUAL_ENV=["']?(\/[^"'\n]*)/m.exec(text)?.[1];
  } catch {
    // An environment without activate is still one.
    return undefined;
  }
}

function samePlace(a: string, b: string): boolean {
  try {
    return realpathSync(a) === realpathSync(b);
  } catch {
    return false;
  }
}

export interface Relocation {
  /** Of those in bin, which start another Python, or none. */
  readonly scripts: readonly string[];
  /** In words, and what to do. */
  readonly found: string;
  readonly hint: string;
}

const SHOWN_SCRIPTS = 3;

/**
 * Whether an environment was made elsewhere: the absolute paths in its scripts stay behind when it is moved or copied.
 */
export function relocatedFrom(venv: string): Relocation | undefined {
  const moved = madeElsewhere(venv);
  if (moved === undefined) return undefined;
  const { from, scripts } = moved;
  const more = scripts.length > SHOWN_SCRIPTS ? `, and ${scripts.length - SHOWN_SCRIPTS} more` : "";
  const which =
    scripts.length === 0
      ? "its activate script names that place"
      : `these scripts in bin start the Python there: ${scripts.slice(0, SHOWN_SCRIPTS).join(", ")}${more}`;
  return {
    scripts,
    found: `it was made in ${from} and then moved or copied; ${which}`,
    hint: `Move it back, or make it again here: rm -r ${venv} && kivi install --create ${venv} --device cpu|cuda`,
  };
}

function madeElsewhere(venv: string): { from: string; scripts: string[] } | undefined {
  const bin = join(venv, "bin");
  const elsewhere = readdirSync(bin, { withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ name }) => ({ name, python: interpreterOf(join(bin, name)) }))
    .filter(({ python }) => python !== undefined && !samePlace(dirname(python), bin));
  const scripts = elsewhere.map(({ name }) => name).sort();
  const made = activated(bin);
  if (made !== undefined && !samePlace(made, venv)) return { from: made, scripts };
  const first = elsewhere.find(({ python }) => basename(dirname(python ?? "")) === "bin")?.python;
  return first === undefined ? undefined : { from: dirname(dirname(first)), scripts };
}
