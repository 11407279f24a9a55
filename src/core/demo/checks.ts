import { existsSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { environmentError } from "../../shared/errors.js";

/** Environment 6 GB, model 0.3 GB, and what the installer unpacks on the way. */
const NEEDED_BYTES = 8e9;

/** vLLM publishes its CPU build for Linux; elsewhere the demo would fail late and obscurely. */
export function checkPlatform(platform: NodeJS.Platform, arch: string): void {
  if (platform === "linux" && (arch === "x64" || arch === "arm64")) return;
  const inLinux =
    platform === "win32"
      ? "Run it inside WSL 2: wsl --install, then npm run demo in the Linux shell."
      : "Run it in a Linux container that has Node 20 and Python 3.10 to 3.13, with this folder mounted: npm run demo";
  throw environmentError(
    "platform-unsupported",
    `The demo needs Linux on x86-64 or ARM64, for which vLLM publishes its CPU build; this is ${platform} on ${arch}.`,
    inLinux,
  );
}

/** Refuses before anything is fetched when the disk cannot hold the environment. */
export async function checkSpace(folder: string, needed = NEEDED_BYTES): Promise<void> {
  let existing = folder;
  while (!existsSync(existing)) existing = dirname(existing);
  const { bavail, bsize } = await statfs(existing);
  const free = bavail * bsize;
  if (free >= needed) return;
  const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`;
  throw environmentError(
    "disk-space-low",
    `${existing} has ${gigabytes(free)} free; the demo's environment and model need about ${gigabytes(needed)}.`,
    "Free some space, or name a folder on a larger disk: KIVI_CACHE_DIR=/path/to/folder npm run demo",
  );
}
