import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("..", import.meta.url));

/** Runs one command with its own output; tells whether it succeeded. */
export function stage(title, argv, env = {}) {
  const startedAt = Date.now();
  console.log(`\n=== ${title}`);
  const { status, signal, error } = spawnSync(argv[0], argv.slice(1), {
    cwd: root,
    stdio: "inherit",
    env: { ...process.env, ...env },
  });
  const seconds = Math.round((Date.now() - startedAt) / 1000);
  const end = status === 0 ? "ok" : `FAILED (${error?.message ?? signal ?? `exit code ${status}`})`;
  console.log(`=== ${title}: ${end} in ${seconds} s`);
  return status === 0;
}
