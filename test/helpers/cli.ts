import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { afterAll } from "vitest";

export const repository = fileURLToPath(new URL("../..", import.meta.url));
const entry = join(repository, "bin", "kivi.js");

/** A temporary folder that goes away with the test file. */
export function temporaryFolder(prefix = "kivi-test-"): string {
  const folder = mkdtempSync(join(tmpdir(), prefix));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** The environment a test's child gets: PATH, a home of its own, and nothing of the developer's. */
export function bareEnvironment(home: string, extra: Record<string, string> = {}): Record<string, string> {
  return { PATH: process.env.PATH ?? "", HOME: home, NO_COLOR: "1", LANG: "C.UTF-8", ...extra };
}

export interface CliResult {
  code: number | undefined;
  stdout: string;
  stderr: string;
}

/** Runs the built `kivi` as a child process. */
export async function kivi(
  args: readonly string[],
  options: { home: string; cwd?: string; env?: Record<string, string> },
): Promise<CliResult> {
  const { exitCode, stdout, stderr } = await execa(process.execPath, [entry, ...args], {
    cwd: options.cwd ?? options.home,
    env: bareEnvironment(options.home, options.env),
    extendEnv: false,
    reject: false,
    stdin: "ignore",
  });
  return { code: exitCode, stdout, stderr };
}
