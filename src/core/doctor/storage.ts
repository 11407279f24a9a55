import { mkdir, rm, statfs, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { messageOf } from "../../shared/errors.js";
import { type Check, fail, ok, warn } from "./check.js";

/** Logs, results and the compiled parts of small models; an environment or a model takes more. */
const ENOUGH_BYTES = 1e9;

export const storageCheck: Check = {
  id: "cache-folder",
  title: "kivi's cache and logs",
  run: async ({ context }) => {
    const { cacheDir, logDir } = context.paths;
    const probe = join(logDir, `.doctor-${process.pid}`);
    try {
      await mkdir(logDir, { recursive: true });
      await writeFile(probe, "kivi doctor looks whether this folder can be written.\n");
    } catch (error) {
      return fail(
        `${logDir} cannot be written: ${messageOf(error)}`,
        "Make it yours to write, or name another folder: export KIVI_CACHE_DIR=PATH",
      );
    } finally {
      await rm(probe, { force: true }).catch(() => undefined);
    }
    const { bavail, bsize } = await statfs(cacheDir);
    const free = bavail * bsize;
    const message = `${cacheDir} has ${(free / 1e9).toFixed(1)} GB free`;
    return free >= ENOUGH_BYTES
      ? ok(message)
      : warn(message, "Free some space there, or name another folder: export KIVI_CACHE_DIR=PATH");
  },
};
