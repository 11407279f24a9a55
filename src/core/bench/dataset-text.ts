/** A text by the name of a data set, which the environment's own `datasets` library loads. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { z } from "zod";
import type { Context } from "../../shared/context.js";
import { childError, environmentError, type KiviError, usageError } from "../../shared/errors.js";
import { markedAnswer } from "../../shared/lines.js";
import { runChecked } from "../../shared/process.js";

const MARK = "KIVI_TEXT ";

/** A slice in brackets may hold colons: `test[:10%]`. */
const FORM =
  /^(?<name>[^:]+):(?<config>[^:]*):(?<split>[^:[]+(?:\[[^\]]*\])?(?:\+[^:[]+(?:\[[^\]]*\])?)*)(?::(?<column>[^:]+))?$/;

export const DATASET_FORM = "NAME:CONFIG:SPLIT, such as wikitext:wikitext-2-raw-v1:test";

const answer = z.union([
  z.strictObject({ error: z.string(), message: z.string(), hint: z.string() }),
  z.strictObject({ path: z.string(), column: z.string(), rows: z.number() }),
]);

function refusal(
  source: string,
  python: string,
  told: { error: string; message: string; hint: string },
): KiviError {
  const message = `--text ${source}: ${told.message}`;
  if (told.error !== "datasets-missing") return usageError(told.error, message, told.hint);
  return environmentError(
    told.error,
    message,
    `Install it: ${python} -m pip install datasets (or: uv pip install --python ${python} datasets), or give a text file.`,
  );
}

/** Loads the text into kivi's cache folder, named by its hash; undefined for what is not of the form. */
export async function datasetText(ctx: Context, python: string, source: string): Promise<string | undefined> {
  const parts = FORM.exec(source)?.groups;
  if (parts === undefined) return undefined;
  const { name = "", config = "", split = "", column = "" } = parts;
  const folder = resolve(ctx.cwd, name);
  const argv: [string, ...string[]] = [
    python,
    join(ctx.paths.bench, "dataset.py"),
    join(ctx.paths.cacheDir, "texts"),
    ...[existsSync(folder) ? folder : name, config, split, column],
  ];
  const { stdout } = await ctx.progress.step(`Load the data set ${source}`, async () =>
    runChecked(
      ctx.runner,
      { argv },
      {
        what: `Loading the data set ${source}`,
        code: "dataset-unreadable",
        cwd: ctx.cwd,
        signal: ctx.signal,
      },
    ),
  );
  const found = markedAnswer(stdout, MARK);
  if (found === undefined) throw childError("dataset-unreadable", `${argv[1]} printed no answer.`);
  const told = answer.parse(found);
  if ("error" in told) throw refusal(source, python, told);
  ctx.out.debug(`${source}: ${told.rows} rows of the column ${told.column}`);
  return told.path;
}
