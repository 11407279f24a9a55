import type { ChalkInstance } from "chalk";
import type { CacheReport, Server } from "../core/server/index.js";
import { bytes, figure, ratio, whole } from "./format.js";

/** The JSON document of a server that is ready. */
export function serverDocument(server: Server, model: string): object {
  const { report } = server;
  return {
    kind: "kivi-server",
    version: 1,
    model,
    pid: server.pid,
    url: server.url,
    baseUrl: `${server.url}/v1`,
    startSeconds: server.startMs / 1000,
    log: server.logFile,
    cache: { ...report, ratioToBf16: report.tokens / report.bf16Tokens },
  };
}

/** Over how many workers the cache lies, where it is not one. */
function spread({ engines, ranks }: CacheReport): string {
  if (engines > 1) return `, ${engines} engines of together ${ranks} ranks`;
  return ranks > 1 ? `, ${ranks} ranks` : "";
}

/** The same for people. */
export function serverSummary(server: Server, model: string, colour: ChalkInstance): string {
  const { report } = server;
  const perToken = `${figure(report.bytesPerToken)} bytes per token`;
  const addition = [
    `key group ${report.keyGroup}`,
    `value group ${report.valueGroup}`,
    ...(report.keyWindow > 0 ? [`key window ${report.keyWindow}`] : []),
    `value residual ${report.valueResidual}`,
    ...(report.valueWindow > 0 ? [`value window ${report.valueWindow}`] : []),
    ...(report.rotation ? ["rotated"] : []),
    ...(report.clipping ? ["clipped"] : []),
  ].join(", ");
  const rows: [string, string][] = [
    ["address", server.url],
    ["OpenAI base URL", `${server.url}/v1`],
    ["model", model],
    ["cache", `KIVI ${report.preset} (${addition}), ${report.layers} layers${spread(report)}`],
    [
      "memory",
      `${perToken}, bf16 ${figure(report.bf16BytesPerToken)} (${ratio(report.bf16BytesPerToken, report.bytesPerToken)})`,
    ],
    [
      "tokens held",
      `${whole(report.tokens)}, bf16 ${whole(report.bf16Tokens)} in the same memory, staging included (${ratio(report.tokens, report.bf16Tokens)})`,
    ],
    ["staging", `${bytes(report.stagingBytes)} for ${whole(report.stagingSlots)} sequences`],
    ["log", server.logFile],
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  const lines = rows.map(([name, value]) => `  ${colour.dim(name.padEnd(width))}  ${value}`);
  return [`${colour.green("Ready")} after ${(server.startMs / 1000).toFixed(1)} s`, ...lines].join("\n");
}
