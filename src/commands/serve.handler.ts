import { resolve } from "node:path";
import {
  checkPlugin,
  checkPort,
  defaultLogFile,
  resolveModel,
  type Server,
  type ServerSettings,
  serverCommand,
  startServer,
  withoutCompiler,
} from "../core/server/index.js";
import { openVenv, requireVllm, resolveVenvPath } from "../core/venv/index.js";
import { serverDocument, serverSummary } from "../report/server.js";
import type { Outcome } from "../shared/command.js";
import type { Context } from "../shared/context.js";
import { showCommand } from "../shared/process.js";
import type { ServeInput } from "./serve.schema.js";

export async function handler(input: ServeInput, context: Context): Promise<Outcome> {
  const { out } = context;
  const venv = await openVenv(context, resolveVenvPath(context, input.venv));
  const vllm = requireVllm(venv);
  const settings: ServerSettings = {
    ...input,
    model: resolveModel(context, input.model),
    vllmArgs: withoutCompiler(context, vllm, input.rest),
  };
  const argv = serverCommand(venv, vllm, settings);
  if (input.print || input.dryRun) {
    return { result: { argv }, render: () => out.result(showCommand(argv)) };
  }
  checkPlugin(context, venv);
  await checkPort(settings.host, settings.port);
  const logFile = input.logFile === undefined ? defaultLogFile(context) : resolve(context.cwd, input.logFile);
  out.debug(`$ ${showCommand(argv)}`);
  out.info(`Server log: ${logFile}`);
  const server = await context.progress.step(`Starting vLLM with ${settings.model}`, (step) =>
    startServer(context, { venv, vllm, settings, logFile, timeoutMs: input.timeout * 1000 }, step),
  );
  announce(context, server, settings.model);
  return server.wait();
}

/** Now, not at the end: a server runs until it is stopped. */
function announce({ out }: Context, server: Server, model: string): void {
  if (out.json) out.document(serverDocument(server, model));
  else out.result(serverSummary(server, model, out.colour));
  out.info("Ctrl-C stops it.");
}
