import { commands } from "../commands/index.js";
import type { CommandSpec } from "../shared/command.js";
import type { Context } from "../shared/context.js";
import { Interruption, usageError } from "../shared/errors.js";
import type { TextStream } from "../shared/output.js";
import { kiviVersion } from "../shared/version.js";
import { type GlobalFlags, parseCommandLine } from "./parse.js";

export interface MainOverrides {
  stdout?: TextStream;
  stderr?: TextStream;
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  commands?: readonly CommandSpec[];
  /** Replaces parts of the context (a fake runner, a fixed clock). */
  context?: Partial<Context>;
  /** Listen to the signals of this process; off in tests that run several at once. */
  handleSignals?: boolean;
}

/** Runs one command line; resolves with the exit code and never ends the process. */
export async function main(argv: readonly string[], overrides: MainOverrides = {}): Promise<number> {
  const stdout = overrides.stdout ?? process.stdout;
  const stderr = overrides.stderr ?? process.stderr;
  const env = overrides.env ?? process.env;
  const cwd = overrides.cwd ?? process.cwd();
  const parsed = parseCommandLine(argv, overrides.commands ?? commands, {
    version: kiviVersion(),
    width: stdout.columns,
  });
  if (parsed.kind === "text") {
    (parsed.exitCode === 0 ? stdout : stderr).write(parsed.text);
    return parsed.exitCode;
  }

  const { Session } = await import("./session.js");
  const flags: GlobalFlags = parsed.flags;
  const session = new Session({ stdout, stderr, env, cwd, argv, flags, overrides: overrides.context ?? {} });
  if (parsed.kind === "error") return session.fail(parsed.error);
  if (flags.quiet && flags.verbose) {
    return session.fail(
      usageError("conflicting-flags", "--quiet and --verbose exclude each other.", "Give one of them."),
    );
  }

  const release = overrides.handleSignals === false ? () => undefined : session.listen(Interruption);
  try {
    return await session.run(parsed.command, parsed.input, argv);
  } finally {
    release();
  }
}
