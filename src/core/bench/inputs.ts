/** What the suites read from disk, checked before an engine starts. */
import { createHash } from "node:crypto";
import { readdir, readFile, stat } from "node:fs/promises";
import { messageOf, usageError } from "../../shared/errors.js";
import type { MatrixConfig, Suite } from "./config.js";
import { DATASET_FORM } from "./dataset-text.js";
import { longestText } from "./quality.js";

/** Hash of the text, empty where no suite reads one; it must at least fill the longest piece: a token is a byte or more. */
export async function textHash({ text, suites, windowTokens, quality }: MatrixConfig): Promise<string> {
  const needs = [
    ...(suites.includes("perplexity")
      ? [{ tokens: windowTokens, what: "one window", less: "--window" }]
      : []),
    ...(suites.includes("quality")
      ? [{ tokens: longestText(quality), what: "a prompt of the quality suite", less: "size under quality:" }]
      : []),
  ];
  if (needs.length === 0) return "";
  let bytes: Buffer;
  try {
    bytes = await readFile(text);
  } catch (error) {
    throw usageError(
      "text-unreadable",
      `--text: ${text} cannot be read: ${messageOf(error)}`,
      `Name a text file, or a data set as ${DATASET_FORM}.`,
      {
        cause: error,
      },
    );
  }
  const short = needs.find(({ tokens }) => bytes.length < tokens);
  if (short !== undefined) {
    throw usageError(
      "text-too-short",
      `--text: ${text} has ${bytes.length} bytes, too few for ${short.what} of ${short.tokens} tokens.`,
      `Give a longer text, or a smaller ${short.less}.`,
    );
  }
  return createHash("sha256").update(bytes).digest("hex");
}

/** The files that tokenizers come in: of transformers, SentencePiece, BPE pairs, tiktoken and Mistral. */
const TOKENIZER = /^(tokenizer.*|vocab\..*|spiece\.model|tekken\.json|.*\.tiktoken)$/;

const READ_TEXT: readonly Suite[] = ["perplexity", "quality", "lm-eval", "serve", "concurrency"];

/** Whether a model comes with a tokenizer. Refuses one without where a suite reads text; a name on the hub is left to vLLM. */
export async function findTokenizer({ model, suites }: MatrixConfig): Promise<boolean> {
  const folder = await stat(model).catch(() => undefined);
  if (!folder?.isDirectory()) return true;
  if ((await readdir(model)).some((name) => TOKENIZER.test(name))) return true;
  const needs = suites.filter((suite) => READ_TEXT.includes(suite));
  if (needs.length === 0) return false;
  throw usageError(
    "tokenizer-missing",
    `${model} has no tokenizer, which the suite ${needs[0]} needs to make its prompts.`,
    `Put the model's tokenizer files (tokenizer.json) there, or leave ${needs.join(" and ")} out of --suites.`,
  );
}
