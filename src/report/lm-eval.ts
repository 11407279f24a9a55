/** Perplexities as lm-eval measures them, a figure for each task. */
import type { Cell } from "../core/bench/result.js";
import type { Metric } from "./metrics.js";

type Task = NonNullable<Cell["lmEval"]>["tasks"][number];

const FIGURES: readonly {
  name: string;
  words: string;
  unit: string;
  read(task: Task): number | undefined;
}[] = [
  {
    name: "word_perplexity",
    words: "perplexity of a word",
    unit: "",
    read: (task) => task.wordPerplexity,
  },
  {
    name: "byte_perplexity",
    words: "perplexity of a byte",
    unit: "",
    read: (task) => task.bytePerplexity,
  },
  { name: "bits_per_byte", words: "bits of a byte", unit: "bits", read: (task) => task.bitsPerByte },
];

function taskMetrics(name: string): Metric[] {
  return FIGURES.map((figure, index) => ({
    name: `lm_eval_${figure.name}`,
    load: name,
    title: `${name}: ${figure.words}`,
    unit: figure.unit,
    relative: "percent" as const,
    // They say the same in other words.
    ...(index === 0 ? {} : { forMachines: true as const }),
    read: ({ lmEval }: Cell) => {
      const task = lmEval?.tasks.find((one) => one.task === name);
      const value = task && figure.read(task);
      return value === undefined ? undefined : { value, text: value.toFixed(index === 0 ? 3 : 5) };
    },
  }));
}

/** A section for each task that any of these cells was measured on. */
export function lmEvalSections(cells: readonly Cell[]): Metric[][] {
  const names = new Set(cells.flatMap(({ lmEval }) => lmEval?.tasks.map(({ task }) => task) ?? []));
  return [...names].map((name) =>
    taskMetrics(name).filter((metric) => cells.some((cell) => metric.read(cell) !== undefined)),
  );
}
