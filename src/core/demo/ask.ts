import { z } from "zod";
import { childError, messageOf } from "../../shared/errors.js";

export interface Message {
  readonly role: "system" | "user";
  readonly content: string;
}

export interface Question {
  /** `http://host:port/v1`, what an OpenAI client calls its base URL. */
  readonly baseUrl: string;
  readonly model: string;
  readonly messages: readonly Message[];
  readonly maxTokens: number;
}

export interface Answer {
  readonly text: string;
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** Until the first token. */
  readonly firstTokenMs: number;
  readonly totalMs: number;
}

const chunkSchema = z.object({
  choices: z.array(z.object({ delta: z.object({ content: z.string().nullish() }).optional() })),
  usage: z.object({ prompt_tokens: z.number(), completion_tokens: z.number() }).nullish(),
});

/** The data of each server-sent event of a response. */
async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of body as unknown as AsyncIterable<Uint8Array>) {
    rest += decoder.decode(bytes, { stream: true });
    const lines = rest.split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line.startsWith("data: ")) yield line.slice("data: ".length).trimEnd();
    }
  }
}

function failed(what: string, cause?: unknown) {
  return childError(
    "question-failed",
    `The question to the server failed: ${what}`,
    "Read the server's log, named above.",
    { cause },
  );
}

/** Asks over the chat completions API, streaming; `onText` gets the answer piece by piece. */
export async function ask(
  question: Question,
  options: { signal: AbortSignal; onText: (text: string) => void },
): Promise<Answer> {
  const startedAt = performance.now();
  let response: Response;
  try {
    response = await fetch(`${question.baseUrl}/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: "Bearer none" },
      body: JSON.stringify({
        model: question.model,
        messages: question.messages,
        max_tokens: question.maxTokens,
        temperature: 0,
        stream: true,
        stream_options: { include_usage: true },
      }),
      signal: options.signal,
    });
  } catch (cause) {
    options.signal.throwIfAborted();
    throw failed(messageOf(cause), cause);
  }
  if (!response.ok || response.body === null) {
    throw failed(`HTTP ${response.status}: ${(await response.text()).slice(0, 500)}`);
  }
  let text = "";
  let firstTokenMs: number | undefined;
  let usage: { prompt_tokens: number; completion_tokens: number } | undefined;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") break;
    let chunk: z.infer<typeof chunkSchema>;
    try {
      chunk = chunkSchema.parse(JSON.parse(data));
    } catch (cause) {
      throw failed(`an event of unknown form: ${data.slice(0, 200)}`, cause);
    }
    const piece = chunk.choices[0]?.delta?.content ?? "";
    if (piece !== "") {
      firstTokenMs ??= performance.now() - startedAt;
      text += piece;
      options.onText(piece);
    }
    usage = chunk.usage ?? usage;
  }
  if (firstTokenMs === undefined || usage === undefined) throw failed("the stream ended without an answer");
  return {
    text,
    promptTokens: usage.prompt_tokens,
    completionTokens: usage.completion_tokens,
    firstTokenMs,
    totalMs: performance.now() - startedAt,
  };
}
