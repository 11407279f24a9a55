import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { workerResult } from "../bench/fixtures.js";
import { installPlugin } from "./installed-plugin.js";

const standIn = fileURLToPath(new URL("python-stand-in.mjs", import.meta.url));

type Recorded = Record<string, unknown>;

/** Makes an environment in which `kivi bench` really starts its workers, which hand out what `bf16` and `k4v4` are. */
export function makeMeasuredVenv(
  venv: string,
  change: (cell: Recorded) => Recorded = (cell) => cell,
): string {
  mkdirSync(join(venv, "bin"), { recursive: true });
  mkdirSync(join(venv, "results"));
  writeFileSync(join(venv, "pyvenv.cfg"), "");
  installPlugin(join(venv, "lib"));
  const python = join(venv, "bin", "python");
  writeFileSync(python, `#!/bin/sh\nexec "${process.execPath}" "${standIn}" "${venv}" "$@"\n`);
  chmodSync(python, 0o755);
  const fp8 = workerResult("fp8");
  const k4v4 = workerResult("k4v4");
  // The recorded k4v4 cell is without a load and was cut to two windows.
  const perplexity = { ...(k4v4.perplexity as object), scored_tokens: 16368, windows: 16 };
  const cells = { bf16: workerResult("bf16"), k4v4: { ...k4v4, throughput: fp8.throughput, perplexity } };
  for (const [cache, cell] of Object.entries(cells)) {
    const changed = cache === "k4v4" ? change(cell) : cell;
    writeFileSync(join(venv, "results", `${cache}.json`), JSON.stringify(changed));
  }
  return venv;
}

/** The same k4v4 cell with another number of tokens held. */
export function holding(tokens: number): (cell: Recorded) => Recorded {
  return (cell) => ({ ...cell, capacity: { ...(cell.capacity as object), tokens } });
}
