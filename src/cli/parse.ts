import { Argument, Command, CommanderError, Option } from "commander";
import type { CommandSpec } from "../shared/command.js";
import { type KiviError, usageError } from "../shared/errors.js";
import { didYouMean } from "../shared/suggest.js";

export interface GlobalFlags {
  json: boolean;
  quiet: boolean;
  verbose: boolean;
}

export type Parsed =
  | { kind: "text"; text: string; exitCode: 0 | 2 }
  | { kind: "error"; error: KiviError; flags: GlobalFlags }
  | { kind: "command"; command: CommandSpec; input: Record<string, unknown>; flags: GlobalFlags };

function camelCase(name: string): string {
  return name.replace(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

function guessFlags(words: readonly string[]): GlobalFlags {
  return {
    json: words.includes("--json"),
    quiet: words.includes("--quiet") || words.includes("-q"),
    verbose: words.includes("--verbose") || words.includes("-v"),
  };
}

function helpFooter(spec: CommandSpec): string {
  const lines: string[] = [];
  if (spec.passThrough !== undefined) {
    lines.push("", `After --: ${spec.passThrough.name}`, `  ${spec.passThrough.description}`);
  }
  if (spec.examples.length > 0) {
    lines.push("", "Examples:");
    for (const example of spec.examples) lines.push(`  $ ${example.command}`, `      ${example.explanation}`);
  }
  return lines.join("\n");
}

function addCommand(
  program: Command,
  spec: CommandSpec,
  onMatch: (input: Record<string, unknown>) => void,
): void {
  const [name = "", under] = spec.name.split(" ").reverse();
  const parent = program.commands.find((other) => other.name() === under) ?? program;
  // Options behind the name of a command under it are that command's, also where both know them.
  if (under !== undefined) parent.enablePositionalOptions().helpCommand(false);
  const command = parent.command(name).summary(spec.summary).description(spec.description);
  for (const argument of spec.arguments ?? []) {
    const word = argument.variadic ? `${argument.name}...` : argument.name;
    const brackets = argument.required ? `<${word}>` : `[${word}]`;
    command.addArgument(new Argument(brackets, argument.description));
  }
  for (const option of spec.options ?? []) {
    const text = option.defaultText === undefined ? "" : ` (default: ${option.defaultText})`;
    const added = new Option(option.flags, option.description + text);
    if (option.repeatable) added.argParser((value, all: string[] | undefined) => [...(all ?? []), value]);
    command.addOption(added.hideHelp(option.hidden ?? false));
  }
  if (spec.passThrough !== undefined) command.usage(`${command.usage()} [-- ${spec.passThrough.name}]`);
  command.addHelpText("after", helpFooter(spec));
  command.action(() => {
    const before = parent === program ? {} : parent.opts();
    const input: Record<string, unknown> = { ...before, ...command.opts() };
    (spec.arguments ?? []).forEach((argument, index) => {
      const value = argument.variadic ? command.args.slice(index) : command.args[index];
      if (value !== undefined) input[camelCase(argument.name)] = value;
    });
    onMatch(input);
  });
}

function toUsageError(
  error: CommanderError,
  specs: readonly CommandSpec[],
  words: readonly string[],
): KiviError {
  const plain = words.filter((word) => !word.startsWith("-"));
  const name = [plain.slice(0, 2).join(" "), plain[0]].find((one) => specs.some((spec) => spec.name === one));
  const help = name === undefined ? "kivi --help" : `kivi ${name} --help`;
  const [first = "", second] = error.message.replace(/^error: /, "").split("\n");
  const code = error.code
    .replace(/^commander\./, "")
    .replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  const suggestion = second === undefined ? "" : ` ${second.replace(/^\(|\)$/g, "")}`;
  const unknown = /^unknown command '(.*)'/.exec(first)?.[1];
  const nearby =
    suggestion === "" && unknown !== undefined
      ? didYouMean(
          unknown,
          specs.map((spec) => spec.name),
        )
      : suggestion;
  return usageError(code, `${first[0]?.toUpperCase() ?? ""}${first.slice(1)}.${nearby}`, `Run ${help}`);
}

/** Reads the command line as far as help, version, or the raw values of one command. */
export function parseCommandLine(
  argv: readonly string[],
  specs: readonly CommandSpec[],
  about: { version: string; width: number | undefined },
): Parsed {
  const dashes = argv.indexOf("--");
  const words = dashes === -1 ? [...argv] : argv.slice(0, dashes);
  const rest = dashes === -1 ? undefined : argv.slice(dashes + 1);
  let text = "";
  let matched: { command: CommandSpec; input: Record<string, unknown> } | undefined;

  const program = new Command("kivi")
    .description("A KIVI (4-bit and 2-bit) KV cache for vLLM: install it, serve with it, measure it.")
    .version(about.version, "-V, --version", "print the version")
    .helpOption("-h, --help", "show help")
    .helpCommand(false)
    .option("--json", "print one JSON document on stdout, errors included")
    .option("-q, --quiet", "no progress, only results, warnings and errors")
    .option("-v, --verbose", "show the debug log on stderr")
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      writeOut: (part) => {
        text += part;
      },
      writeErr: () => undefined,
      getOutHelpWidth: () => about.width ?? 100,
      getOutHasColors: () => false,
    })
    .exitOverride();
  for (const spec of specs) {
    addCommand(program, spec, (input) => {
      matched = { command: spec, input };
    });
  }
  if (words.length === 0) return { kind: "text", text: `${program.helpInformation()}`, exitCode: 2 };

  try {
    program.parse([...words], { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return { kind: "text", text, exitCode: 0 };
    return { kind: "error", error: toUsageError(error, specs, words), flags: guessFlags(words) };
  }
  const flags = { ...guessFlags([]), ...program.opts<Partial<GlobalFlags>>() };
  if (matched === undefined) {
    return {
      kind: "error",
      error: usageError("missing-command", "No command given.", "Run kivi --help"),
      flags,
    };
  }
  if (matched.command.passThrough !== undefined) matched.input.rest = rest ?? [];
  else if (rest !== undefined && rest.length > 0) {
    const error = usageError(
      "unexpected-words",
      `kivi ${matched.command.name} takes nothing after --; found "${rest.join(" ")}".`,
      `Run kivi ${matched.command.name} --help`,
    );
    return { kind: "error", error, flags };
  }
  return { kind: "command", ...matched, flags };
}
