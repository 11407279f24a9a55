import { readFile } from "node:fs/promises";
import { parseDocument } from "yaml";
import { ZodObject, type ZodType } from "zod";
import { messageOf, usageError } from "./errors.js";
import { didYouMean } from "./suggest.js";

/** `keyGroup` as it is written on the command line and in files: `key-group`. */
export function kebabCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** Values are read by the same readers as flags, which take text: `[a, b]` is `a,b` and `3` is `"3"`. */
function asText(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(String).join(",");
  return typeof value === "number" ? String(value) : value;
}

/** Where an unknown key is known: inside a section, or else under a like name; the empty string if nowhere. */
function elsewhere(key: string, fields: Record<string, ZodType>): string {
  const section = Object.keys(fields).find((name) => {
    const field = fields[name];
    return field instanceof ZodObject && Object.hasOwn(field.shape, key);
  });
  if (section !== undefined) return ` It belongs under "${kebabCase(section)}:".`;
  return didYouMean(key, Object.keys(fields).map(kebabCase));
}

/** A tag that YAML itself does not have is a problem as an error is, and so are aliases without an end or an anchor. */
function readYaml(text: string, path: string): unknown {
  const document = parseDocument(text, { logLevel: "error" });
  const problems = [...document.errors, ...document.warnings].map((error) => error.message.split("\n")[0]);
  try {
    if (problems.length === 0) return document.toJS() as unknown;
  } catch (error) {
    problems.push(messageOf(error));
  }
  const lines = problems.map((problem) => `${path}: ${problem}`);
  throw usageError("config-invalid", lines.join("\n"), undefined, { details: { problems: lines } });
}

/**
 * Reads a YAML file whose keys are the names of flags. Every problem is reported in one error, each with the file
 * and the key; an unknown key is a problem and comes with the nearest known one.
 */
export async function readConfigFile<T extends Record<string, ZodType>>(
  path: string,
  fields: T,
): Promise<{ [K in keyof T]?: T[K]["_output"] }> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    throw usageError(
      "config-unreadable",
      `--config: ${path} cannot be read: ${messageOf(error)}`,
      undefined,
      {
        cause: error,
      },
    );
  }
  const raw = readYaml(text, path) ?? {};
  if (typeof raw !== "object" || raw === null || Array.isArray(raw)) {
    throw usageError("config-invalid", `${path}: expected "name: value" lines at the top.`);
  }

  const names = new Map(Object.keys(fields).map((name) => [kebabCase(name), name]));
  const values: Record<string, unknown> = {};
  const problems: string[] = [];
  for (const [key, value] of Object.entries(raw)) {
    const name = names.get(key);
    const field = name === undefined ? undefined : fields[name];
    if (name === undefined || field === undefined) {
      problems.push(`${path}: unknown key "${key}".${elsewhere(key, fields)}`);
      continue;
    }
    const checked = field.safeParse(asText(value));
    if (checked.success) values[name] = checked.data;
    else
      for (const { path: inner, message } of checked.error.issues)
        problems.push(`${path}: ${[key, ...inner.map(String)].join(".")}: ${message}`);
  }
  if (problems.length > 0) {
    const hint = `Known keys: ${[...names.keys()].join(", ")}`;
    throw usageError("config-invalid", problems.join("\n"), hint, { details: { problems } });
  }
  return values as { [K in keyof T]?: T[K]["_output"] };
}
