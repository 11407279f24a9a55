// `npm run test:soak -- --minutes 60`: random load on vLLM's CPU build. Not part of `npm test`: see test/engine/soak.py.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { prepareEnvironment } from "./environment.mjs";
import { root } from "./stages.mjs";

const venv = await prepareEnvironment();
const { status } = spawnSync(
  venv.python,
  [join(root, "test", "engine", "soak.py"), ...process.argv.slice(2)],
  {
    stdio: "inherit",
    env: { ...process.env, PATH: `${join(venv.path, "bin")}:${process.env.PATH}` },
  },
);
process.exitCode = status ?? 4;
