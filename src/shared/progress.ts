import ora, { type Ora } from "ora";
import type { Output } from "./output.js";

export interface Step {
  /** Replaces the text after the title ("3 of 9, 40 s left"). */
  update(text: string): void;
}

export interface Progress {
  /** Shows the title while the body runs, then the time it took. Steps may nest. */
  step<T>(title: string, body: (step: Step) => Promise<T>): Promise<T>;
}

export function seconds(ms: number): string {
  const total = ms / 1000;
  if (total < 10) return `${total.toFixed(1)} s`;
  if (total < 120) return `${Math.round(total)} s`;
  return `${Math.floor(total / 60)} min ${Math.round(total % 60)} s`;
}

/** Updates faster than this are not shown when every update is a line of its own. */
const PLAIN_INTERVAL_MS = 5_000;
/** A step that says nothing for so long gets a line that says it still runs. */
const PLAIN_SILENCE_MS = 20_000;
/** What ends sooner needs no second line. */
const PLAIN_QUICK_MS = 1_000;

export function createProgress(out: Output): Progress {
  let spinner: Ora | undefined;
  let depth = 0;

  const interactive = async <T>(title: string, body: (step: Step) => Promise<T>): Promise<T> => {
    const outer = spinner?.text;
    const startedAt = Date.now();
    spinner ??= ora({ stream: out.errStream as NodeJS.WriteStream, discardStdin: false, hideCursor: false });
    const mine = spinner;
    mine.start(title);
    out.around = (write) => {
      mine.clear();
      write();
      mine.render();
    };
    depth += 1;
    let text = title;
    const clock = setInterval(() => {
      if (Date.now() - startedAt > 3_000) mine.text = `${text} (${seconds(Date.now() - startedAt)})`;
    }, 1_000);
    const finish = (ok: boolean): void => {
      clearInterval(clock);
      depth -= 1;
      const line = `${title} (${seconds(Date.now() - startedAt)})`;
      if (ok) mine.succeed(line);
      else mine.fail(line);
      out.around = undefined;
      if (depth === 0) spinner = undefined;
      else mine.start(outer ?? "");
    };
    try {
      const result = await body({
        update: (more) => {
          text = `${title}: ${more}`;
          mine.text = text;
          out.debugOnly("step", text);
        },
      });
      finish(true);
      return result;
    } catch (error) {
      finish(false);
      throw error;
    }
  };

  const plain = async <T>(title: string, body: (step: Step) => Promise<T>): Promise<T> => {
    const startedAt = Date.now();
    let shownAt = startedAt;
    const indent = "  ".repeat(depth);
    out.info(`${indent}${title} ...`);
    depth += 1;
    const heartbeat = setInterval(() => {
      if (Date.now() - shownAt < PLAIN_SILENCE_MS) return;
      shownAt = Date.now();
      out.info(`${indent}${title}: still running, ${seconds(Date.now() - startedAt)}`);
    }, PLAIN_SILENCE_MS / 4);
    try {
      const result = await body({
        update: (more) => {
          out.debugOnly("step", `${title}: ${more}`);
          if (Date.now() - shownAt < PLAIN_INTERVAL_MS) return;
          shownAt = Date.now();
          out.info(`${indent}${title}: ${more}`);
        },
      });
      const took = Date.now() - startedAt;
      if (took >= PLAIN_QUICK_MS) out.info(`${indent}${title}: done in ${seconds(took)}`);
      else out.debugOnly("step", `${title}: done`);
      return result;
    } catch (error) {
      out.info(`${indent}${title}: failed after ${seconds(Date.now() - startedAt)}`);
      throw error;
    } finally {
      clearInterval(heartbeat);
      depth -= 1;
    }
  };

  return {
    step: (title, body) => {
      out.debugOnly("step", title);
      return out.interactive ? interactive(title, body) : plain(title, body);
    },
  };
}
