import { main } from "../../src/cli/main.js";

export interface Run {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** `kivi report` in this process. */
export async function report(
  cwd: string,
  argv: readonly string[],
  env: Record<string, string> = {},
): Promise<Run> {
  let stdout = "";
  let stderr = "";
  const code = await main(["report", ...argv], {
    stdout: { write: (text) => (stdout += text) },
    stderr: { write: (text) => (stderr += text) },
    env: { HOME: cwd, ...env },
    cwd,
    handleSignals: false,
  });
  return { code, stdout, stderr };
}
