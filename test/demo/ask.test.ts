import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import { ask } from "../../src/core/demo/ask.js";

let server: Server | undefined;
let received = "";

/** A server that answers every request with these pieces, each written by itself. */
async function answering(status: number, pieces: string[], hang = false): Promise<string> {
  server = createServer((request, response) => {
    request.on("data", (chunk) => {
      received += chunk;
    });
    request.on("end", async () => {
      response.writeHead(status, { "content-type": "text/event-stream" });
      for (const piece of pieces) {
        response.write(piece);
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      if (!hang) response.end();
    });
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => server?.once("listening", resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
}

afterEach(() => {
  server?.closeAllConnections();
  server?.close();
  received = "";
});

const question = (baseUrl: string) => ({
  baseUrl,
  model: "m",
  messages: [{ role: "user", content: "Q" }] as const,
  maxTokens: 8,
});
const delta = (content: string) =>
  `data: {"choices":[{"index":0,"delta":{"content":${JSON.stringify(content)}}}]}\n\n`;
const usage = 'data: {"choices":[],"usage":{"prompt_tokens":233,"completion_tokens":3}}\n\ndata: [DONE]\n\n';

describe("asking over the chat completions API", () => {
  it("gives the text piece by piece, however the bytes are cut", async () => {
    const all = delta("") + delta("Tö") + delta("bias") + usage;
    const bytes = Buffer.from(all);
    const middle = bytes.indexOf(0xc3) + 1;
    const url = await answering(200, [bytes.subarray(0, middle), bytes.subarray(middle)] as never);
    const pieces: string[] = [];
    const answer = await ask(question(url), {
      signal: new AbortController().signal,
      onText: (piece) => pieces.push(piece),
    });
    expect(pieces).toEqual(["Tö", "bias"]);
    expect(answer).toMatchObject({ text: "Töbias", promptTokens: 233, completionTokens: 3 });
    expect(JSON.parse(received)).toMatchObject({ model: "m", stream: true, max_tokens: 8 });
  });

  it.each([
    [500, ["out of luck"], /HTTP 500: out of luck/],
    [200, [delta("a")], /ended without an answer/],
    [200, ["data: {broken\n\n"], /an event of unknown form: \{broken/],
  ])("refuses what is no answer (%s %j)", async (status, pieces, message) => {
    const url = await answering(status, pieces);
    const options = { signal: new AbortController().signal, onText: () => undefined };
    await expect(ask(question(url), options)).rejects.toMatchObject({ code: "question-failed", exitCode: 4 });
    await expect(ask(question(url), options)).rejects.toThrow(message);
  });

  it("stops when it is told to", async () => {
    const url = await answering(200, [delta("a")], true);
    const abort = new AbortController();
    const reason = new Error("enough");
    const asked = ask(question(url), { signal: abort.signal, onText: () => abort.abort(reason) });
    await expect(asked).rejects.toBe(reason);
  });
});
