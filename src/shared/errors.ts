/** Exit codes a failed run can have; signals (130, 143) are added by the CLI alone. */
export const EXIT = { ok: 0, finding: 1, usage: 2, environment: 3, child: 4, internal: 5 } as const;

export type ErrorExitCode = 1 | 2 | 3 | 4 | 5;

export interface KiviErrorOptions {
  /** Stable, kebab-case; scripts may match on it. */
  code: string;
  exitCode: ErrorExitCode;
  /** What to do next, best as the exact command. */
  hint?: string | undefined;
  cause?: unknown;
  /** Extra facts for the JSON form. */
  details?: Record<string, unknown> | undefined;
}

/** The one error of the project: `message` says what failed, where, and what was found. */
export class KiviError extends Error {
  readonly code: string;
  readonly exitCode: ErrorExitCode;
  readonly hint: string | undefined;
  readonly details: Record<string, unknown> | undefined;

  constructor(message: string, options: KiviErrorOptions) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "KiviError";
    this.code = options.code;
    this.exitCode = options.exitCode;
    this.hint = options.hint;
    this.details = options.details;
  }
}

type Extra = { cause?: unknown; details?: Record<string, unknown> };

export function usageError(code: string, message: string, hint?: string, extra: Extra = {}): KiviError {
  return new KiviError(message, { code, exitCode: EXIT.usage, hint, ...extra });
}

export function environmentError(code: string, message: string, hint?: string, extra: Extra = {}): KiviError {
  return new KiviError(message, { code, exitCode: EXIT.environment, hint, ...extra });
}

export function childError(code: string, message: string, hint?: string, extra: Extra = {}): KiviError {
  return new KiviError(message, { code, exitCode: EXIT.child, hint, ...extra });
}

export function internalError(code: string, message: string, hint?: string, extra: Extra = {}): KiviError {
  return new KiviError(message, { code, exitCode: EXIT.internal, hint, ...extra });
}

/** Thrown (as the abort reason) when the user or the system stops the run. */
export class Interruption extends Error {
  readonly exitCode: number;

  constructor(readonly signalName: "SIGINT" | "SIGTERM" | "SIGHUP") {
    super(`Interrupted by ${signalName}`);
    this.name = "Interruption";
    this.exitCode = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 }[signalName];
  }
}

/** The system error code (`ENOENT`, `ENOSPC`, ...) of an unknown thrown value. */
export function systemCode(error: unknown): string | undefined {
  if (error instanceof Error && "code" in error && typeof error.code === "string") return error.code;
  return undefined;
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The JSON form, the same for every command under `--json`. */
export function errorDocument(error: unknown): { error: Record<string, unknown> } {
  if (error instanceof KiviError) {
    return {
      error: {
        code: error.code,
        message: error.message,
        exitCode: error.exitCode,
        ...(error.hint === undefined ? {} : { hint: error.hint }),
        ...(error.cause === undefined ? {} : { cause: messageOf(error.cause) }),
        ...(error.details === undefined ? {} : { details: error.details }),
      },
    };
  }
  if (error instanceof Interruption) {
    return { error: { code: "interrupted", message: error.message, exitCode: error.exitCode } };
  }
  return { error: { code: "internal", message: messageOf(error), exitCode: EXIT.internal } };
}
