import { readdirSync, readFileSync } from "node:fs";
import { connect } from "node:net";

export interface Process {
  readonly pid: number;
  readonly parent: number;
  readonly argv: readonly string[];
}

/** Every process of this machine that is not a zombie. Linux only. */
export function processes(): Process[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, "utf8");
        const [state, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
        const argv = readFileSync(`/proc/${name}/cmdline`, "utf8").split("\0");
        return state === "Z" ? [] : [{ pid: Number(name), parent: Number(parent), argv }];
      } catch {
        return []; // It ended meanwhile.
      }
    });
}

/** Children of a process, and theirs. */
export function below(root: number, all: readonly Process[]): Process[] {
  return all.filter(({ parent }) => parent === root).flatMap((child) => [child, ...below(child.pid, all)]);
}

/** Whether nobody listens there. */
export function refused(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("connect", () => resolve(false)).once("error", () => resolve(true));
    socket.once("connect", () => socket.destroy());
  });
}
