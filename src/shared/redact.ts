/** Keeps secrets out of what kivi shows, logs and saves. */

/** vLLM's flags with a secret behind them, and the shortest spelling that its parser takes for each. */
const SECRET_FLAGS: Readonly<Record<string, string>> = { "--api-key": "--api-k", "--hf-token": "--hf-t" };
const SECRET_NAME =
  /(^|_)((AUTH_?)?TOKEN|API_?KEY|SECRET|SECRET_KEY|ACCESS_KEY|PASSWORD|PASSWD|CREDENTIALS?)$/i;
/** Shorter values are seldom secrets (`EMPTY`), and words of ordinary text; behind a flag they are hidden all the same. */
const SHORTEST = 6;
const URL_LOGIN = /\b(https?:\/\/)[^\s/?#@"'\\]+@/gi;
/** As vLLM logs its own arguments: `'api_key': ['a', 'b']`, `hf_token=None`. */
const LOGGED = /(["']?\b(?:api_key|hf_token)\b["']?\s*[:=]\s*)(\[[^\]]*\]?|'[^']*'|"[^"]*")/g;

export const HIDDEN = "***";

/** The secret flag that a word is, by vLLM's rules: `_` for `-`, a value behind `=`, abbreviated. */
export function secretFlag(word: string): string | undefined {
  if (!word.startsWith("--")) return undefined;
  const name = (word.split("=", 1)[0] ?? "").replaceAll("_", "-");
  return Object.keys(SECRET_FLAGS).find(
    (flag) => flag.startsWith(name) && name.startsWith(SECRET_FLAGS[flag] as string),
  );
}

interface Secret {
  readonly flag: string;
  readonly values: readonly string[];
}

/** Takes the secret flags with their values (up to the next flag) out of a command line. */
export function splitSecrets(argv: readonly string[]): { rest: string[]; secrets: Secret[] } {
  const rest: string[] = [];
  const secrets: Secret[] = [];
  for (let index = 0; index < argv.length; index++) {
    const word = argv[index] as string;
    const flag = secretFlag(word);
    if (flag === undefined) {
      rest.push(word);
      continue;
    }
    const values: string[] = [];
    if (word.includes("=")) values.push(word.slice(word.indexOf("=") + 1));
    else
      while (index + 1 < argv.length && !argv[index + 1]?.startsWith("-")) values.push(argv[++index] ?? "");
    secrets.push({ flag, values });
  }
  return { rest, secrets };
}

/** Hides the values of secret flags of a command line, of environment variables named like secrets, and logins in URLs. */
export class Redactor {
  readonly #known: RegExp | undefined;

  constructor(env: Readonly<Record<string, string | undefined>>, argv: readonly string[]) {
    const named = Object.entries(env).flatMap(([name, value]) =>
      SECRET_NAME.test(name) ? [value ?? ""] : [],
    );
    const flagged = splitSecrets(argv).secrets.flatMap(({ values }) => values);
    const known = [...new Set([...named, ...flagged])].filter((value) => value.length >= SHORTEST);
    // The longest first: one secret may begin with another.
    known.sort((a, b) => b.length - a.length);
    const escaped = known.map((value) => value.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"));
    this.#known = known.length === 0 ? undefined : new RegExp(escaped.join("|"), "g");
  }

  text(text: string): string {
    const plain = this.#known === undefined ? text : text.replace(this.#known, HIDDEN);
    return plain.replace(URL_LOGIN, `$1${HIDDEN}@`).replace(LOGGED, `$1${HIDDEN}`);
  }

  /** Words of a command line, in their places. */
  words(argv: readonly string[]): string[] {
    let behind = false;
    return argv.map((word) => {
      const flag = secretFlag(word);
      if (flag !== undefined) {
        behind = !word.includes("=");
        return behind ? word : `${word.slice(0, word.indexOf("="))}=${HIDDEN}`;
      }
      behind &&= !word.startsWith("-");
      return behind ? HIDDEN : this.text(word);
    });
  }

  /** A copy of a JSON document, with every text in it; lists of texts are read as command lines. */
  document<T>(value: T): T {
    return this.#copy(value) as T;
  }

  #copy(value: unknown): unknown {
    if (typeof value === "string") return this.text(value);
    if (Array.isArray(value)) {
      const texts = value.every((item) => typeof item === "string");
      return texts ? this.words(value) : value.map((item) => this.#copy(item));
    }
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, this.#copy(item)]));
  }
}
