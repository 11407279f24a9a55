import type { Action } from "../../shared/plan.js";
import { explainWriteError, fileGate } from "./files.js";
import { acquireLock } from "./lock.js";
import { recover, Transaction } from "./transaction.js";

/** One change of one environment: a lock, a transaction, and the actions that every change begins and ends with. */
export class Change {
  #release: (() => void) | undefined;
  #transaction: Transaction | undefined;

  /** `site` is asked when the action runs: a plan may be made before the environment exists. */
  constructor(
    private readonly site: () => string,
    private readonly retry: string,
  ) {}

  get transaction(): Transaction {
    if (this.#transaction === undefined) throw new Error("the environment is not locked");
    return this.#transaction;
  }

  /** Wraps a write so that a full disk or a missing permission is told in the user's words. */
  async guarded(write: () => void): Promise<void> {
    try {
      write();
    } catch (error) {
      throw await explainWriteError(error, this.site(), this.retry);
    }
  }

  lock(shownPath: string): Action {
    return {
      title: "Lock the environment, and take back what a killed run left half done",
      path: shownPath,
      readOnly: false,
      run: (context) =>
        this.guarded(() => {
          this.#release = acquireLock(fileGate, this.site());
          if (recover(fileGate, this.site())) {
            context.out.warn(
              "An earlier kivi was killed in the middle of a change; the environment was put back first.",
            );
          }
          this.#transaction = new Transaction(fileGate, this.site());
        }),
      undo: async () => {
        // A lock that was not got is someone else's, and so is the work folder beside it.
        if (this.#release === undefined) return;
        this.#transaction?.rollback();
        this.#unlock();
      },
    };
  }

  #unlock(): void {
    this.#release?.();
    this.#release = undefined;
  }

  finish(shownPath: string): Action {
    return {
      title: "Keep the change, and remove what was moved aside",
      path: shownPath,
      readOnly: false,
      run: () =>
        this.guarded(() => {
          this.transaction.commit();
          this.#unlock();
        }),
    };
  }
}
