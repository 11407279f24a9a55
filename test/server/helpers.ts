import { execFileSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const standIn = fileURLToPath(new URL("stand-in.mjs", import.meta.url));

function distribution(sitePackages: string, name: string, version: string): void {
  const folder = join(sitePackages, `${name.replaceAll("-", "_")}-${version}.dist-info`);
  mkdirSync(folder);
  writeFileSync(join(folder, "METADATA"), `Metadata-Version: 2.1\nName: ${name}\nVersion: ${version}\n`);
  writeFileSync(join(folder, "RECORD"), `${name.replaceAll("-", "_")}-${version}.dist-info/METADATA,,\n`);
}

/**
 * A real virtual environment whose `vllm` program is the stand-in: what is tested is how kivi starts, watches and
 * stops processes, not vLLM.
 */
export function makeVenv(path: string, options: { plugin?: boolean; vllm?: string } = {}): string {
  execFileSync("python3", ["-m", "venv", "--without-pip", path]);
  const sitePackages = execFileSync(
    join(path, "bin", "python"),
    ["-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
    { encoding: "utf8" },
  ).trim();
  if (options.vllm !== "") distribution(sitePackages, "vllm", options.vllm ?? "0.26.0");
  if (options.plugin !== false) distribution(sitePackages, "vllm-kivi", "0.1.0");
  symlinkSync(standIn, join(path, "bin", "vllm"));
  chmodSync(join(path, "bin", "vllm"), 0o755);
  return path;
}

/** A model folder, enough for kivi's own look at it. */
export function makeModel(folder: string, name: string): string {
  const path = join(folder, name);
  mkdirSync(path, { recursive: true });
  writeFileSync(join(path, "config.json"), "{}");
  return path;
}

/** Whether something has the port. */
export function listening(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(true));
    server.listen({ host: "127.0.0.1", port, exclusive: true }, () => server.close(() => resolve(false)));
  });
}

/** Of the processes that wrote themselves down, how many there were and which still run. */
export function processes(pidFile: string): { count: number; running: number[] } {
  const text = existsSync(pidFile) ? readFileSync(pidFile, "utf8") : "";
  const pids = [...new Set(text.split("\n").filter(Boolean).map(Number))];
  const running = pids.filter((pid) => {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
      return !/^ [ZX]/.test(stat.slice(stat.lastIndexOf(")") + 1));
    } catch {
      return false;
    }
  });
  return { count: pids.length, running };
}
