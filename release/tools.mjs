// Programs that a release starts: by argv, with their output kept for the error.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { findInstaller } from "../dist/core/venv/installer.js";
import { findPython } from "../dist/core/venv/python.js";
import { withContext } from "../test/environment.mjs";

export const root = fileURLToPath(new URL("..", import.meta.url));

export class ReleaseError extends Error {}

/** Standard output of a program that must succeed. */
export function output(argv, options = {}) {
  const { status, stdout, stderr, error } = spawnSync(argv[0], argv.slice(1), {
    cwd: root,
    encoding: "utf8",
    maxBuffer: 64 * 2 ** 20,
    ...options,
  });
  if (status === 0) return stdout;
  const said = `${stdout ?? ""}${stderr ?? ""}`.trim().split("\n").slice(-15).join("\n");
  throw new ReleaseError(`${argv.join(" ")} failed (${error?.message ?? `exit code ${status}`}):\n${said}`);
}

/** How to start one of the pinned Python tools of requirements.txt, with the uv that kivi itself uses. */
export async function pythonTool(name) {
  const installer = await withContext(async (context) =>
    findInstaller(context, (await findPython(context)).path),
  );
  if (installer.kind !== "uv")
    throw new ReleaseError(`uv is needed to run ${name}, and could not be fetched.`);
  const pins = join(root, "release", "requirements.txt");
  return [installer.path, "run", "--no-project", "--with-requirements", pins, "--", name];
}
