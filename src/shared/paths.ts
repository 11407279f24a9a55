import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

export interface Paths {
  /** Environments, models, logs: everything that can be made again. */
  readonly cacheDir: string;
  readonly logDir: string;
  /** The folder of package.json, in a clone and in an npm installation alike. */
  readonly root: string;
  readonly templates: string;
  /** The Python package's sources (`vllm_kivi/`). */
  readonly pythonPlugin: string;
  readonly tritonKernels: string;
  readonly bench: string;
}

export function resolvePaths(env: NodeJS.ProcessEnv): Paths {
  const root = resolve(dirname(fileURLToPath(import.meta.url)), "..", "..");
  const home = env.HOME ?? homedir();
  const cacheDir = env.KIVI_CACHE_DIR
    ? resolve(env.KIVI_CACHE_DIR)
    : join(env.XDG_CACHE_HOME ? resolve(env.XDG_CACHE_HOME) : join(home, ".cache"), "vllm-kivi");
  return {
    cacheDir,
    logDir: join(cacheDir, "logs"),
    root,
    templates: join(root, "templates"),
    pythonPlugin: join(root, "python-plugin"),
    tritonKernels: join(root, "triton-kernels"),
    bench: join(root, "bench"),
  };
}
