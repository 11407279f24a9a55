// Numba's compiled kernels, carried from one release's environment to the next: vLLM has no part in them, and compiling
// them anew takes half of a release's time.
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readFileSync, rmSync, utimesSync } from "node:fs";
import { basename, join } from "node:path";

const cpu = (venv) => join(venv.sitePackages, "vllm_kivi", "backend", "cpu");
const cache = (venv) => join(cpu(venv), "__pycache__");

function copy(from, to) {
  mkdirSync(to, { recursive: true });
  cpSync(from, to, { recursive: true, filter: (name) => name === from || /\.nb[ic]$/.test(basename(name)) });
}

/**
 * Brings what `saveKernels` kept. Numba takes it only where its own version, the machine's features and the source's time
 * and size are those of the compilation, so the time is set by the source's content.
 */
export function restoreKernels(venv, store) {
  const source = join(cpu(venv), "kernels.py");
  const seconds = Number.parseInt(
    createHash("sha256").update(readFileSync(source)).digest("hex").slice(0, 7),
    16,
  );
  utimesSync(source, seconds, seconds);
  mkdirSync(store, { recursive: true });
  copy(store, cache(venv));
}

/** Keeps what Numba compiled for this environment. */
export function saveKernels(venv, store) {
  rmSync(store, { recursive: true, force: true });
  copy(cache(venv), store);
}
