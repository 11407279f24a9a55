import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("..", import.meta.url));
const startedAt = Date.now();

/** Runs one command with its own output, whose summary closes the stage; tells whether it succeeded. */
export function stage(title, argv, env = {}) {
  console.log(`\n=== ${title} (after ${Math.round((Date.now() - startedAt) / 1000)} s)`);
  const { status, signal, error } = spawnSync(argv[0], argv.slice(1), {
    cwd: root,
    stdio: "inherit",
    env: { ...process.env, ...env },
  });
  if (status !== 0)
    console.error(`\nerror: ${title} failed (${error?.message ?? signal ?? `exit code ${status}`})`);
  return status === 0;
}
