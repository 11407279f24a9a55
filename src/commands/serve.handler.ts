import { resolve } from "node:path";
import { cacheDtype } from "../core/plugin/presets.js";
import {
  checkPlace,
  checkPlugin,
  checkPort,
  defaultLogFile,
  resolveModel,
  type Server,
  type ServerSettings,
  serverCommand,
  serverEnvironment,
  startServer,
  takeSecrets,
  withoutCompiler,
} from "../core/server/index.js";
import { openVenv, requireVllm, resolveVenvPath } from "../core/venv/index.js";
import { serverDocument, serverSummary } from "../report/server.js";
import type { Outcome } from "../shared/command.js";
import type { Context } from "../shared/context.js";
import { showCommand } from "../shared/process.js";
import { HIDDEN } from "../shared/redact.js";
import type { ServeInput } from "./serve.schema.js";

export async function handler(input: ServeInput, context: Context): Promise<Outcome> {
  const { out } = context;
  const venv = await openVenv(context, resolveVenvPath(context, input.venv));
  const vllm = requireVllm(venv);
  const { words, env } = takeSecrets(input.rest);
  const settings: ServerSettings = {
    ...input,
    audit: input.kiviAudit,
    cacheDtype: cacheDtype(input.preset),
    model: resolveModel(context, input.model),
    vllmArgs: withoutCompiler(context, vllm, words),
  };
  const argv = serverCommand(venv, vllm, settings);
  checkPlugin(context, venv);
  checkPlace(venv, vllm);
  await checkPort(settings.host, settings.port);
  if (input.dryRun || input.print) return dryRun(context, argv, Object.keys(env));
  const logFile = input.logFile === undefined ? defaultLogFile(context) : resolve(context.cwd, input.logFile);
  out.debug(`$ ${showCommand(argv)}`);
  out.info(`Server log: ${logFile}`);
  const server = await context.progress.step(`Starting vLLM with ${settings.model}`, (step) =>
    startServer(context, { venv, vllm, settings, env, logFile, timeoutMs: input.timeout * 1000 }, step),
  );
  announce(context, server, settings.model);
  return server.wait();
}

/** The command line that a start would run. What is of one start alone is left out: the mark
 * by which kivi finds a server's processes again, and the folder of its sockets. */
function dryRun({ env, out }: Context, argv: readonly string[], secrets: readonly string[]): Outcome {
  const changes = Object.entries(serverEnvironment(env));
  const set = changes.filter(([, value]) => value !== undefined);
  const unset = changes.filter(([, value]) => value === undefined).map(([name]) => name);
  const hidden = secrets.map((name) => [name, HIDDEN]);
  const result = { dryRun: true, argv, env: Object.fromEntries([...set, ...hidden]), unset };
  return {
    result,
    render: () => {
      for (const name of secrets) out.info(`Beside it ${name} is set, which is not shown.`);
      out.result(showCommand(argv));
    },
  };
}

/** Now, not at the end: a server runs until it is stopped. */
function announce({ out }: Context, server: Server, model: string): void {
  if (out.json) out.document(serverDocument(server, model));
  else out.result(serverSummary(server, model, out.colour));
  out.info("Ctrl-C stops it.");
}
