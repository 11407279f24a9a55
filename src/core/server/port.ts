import { createServer, type Server } from "node:net";
import { environmentError, systemCode, usageError } from "../../shared/errors.js";

function listen(host: string, port: number): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen({ host, port, exclusive: true }, () => resolve(server));
  });
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => server.close(() => resolve()));
}

/** A port that was free a moment ago. */
export async function freePort(host: string): Promise<number> {
  const server = await listen(host, 0);
  const address = server.address();
  await close(server);
  if (address === null || typeof address === "string") throw new TypeError("a TCP socket has an address");
  return address.port;
}

/** Whether nothing listens on the port. */
export async function isFree(host: string, port: number): Promise<boolean> {
  try {
    await close(await listen(host, port));
    return true;
  } catch (error) {
    if (systemCode(error) === "EADDRINUSE") return false;
    throw error;
  }
}

export function portInUse(host: string, port: number) {
  return environmentError(
    "port-in-use",
    `Port ${port} on ${host} is in use by another process.`,
    `Choose another one (kivi serve MODEL --port ${port === 65_535 ? 8000 : port + 1}), or see who has it: ss -ltnp 'sport = :${port}'`,
  );
}

/** Fails before a slow start does: port taken, host not of this machine, or a port only root may use. */
export async function checkPort(host: string, port: number): Promise<void> {
  let free: boolean;
  try {
    free = await isFree(host, port);
  } catch (cause) {
    const code = systemCode(cause);
    if (code === "EACCES") {
      throw environmentError(
        "port-forbidden",
        `Port ${port} on ${host} may not be opened by this user.`,
        "Choose a port from 1024 up: kivi serve MODEL --port 8000",
        { cause },
      );
    }
    throw usageError(
      "host-not-local",
      `--host ${host} is no address of this machine (${code ?? String(cause)}).`,
      "Use --host 127.0.0.1 for this machine only, or --host 0.0.0.0 for every interface.",
      { cause },
    );
  }
  if (!free) throw portInUse(host, port);
}

/** The base URL to reach a server that listens on `host`. */
export function baseUrl(host: string, port: number): string {
  const reachable = host === "0.0.0.0" ? "127.0.0.1" : host === "::" ? "::1" : host;
  return `http://${reachable.includes(":") ? `[${reachable}]` : reachable}:${port}`;
}
