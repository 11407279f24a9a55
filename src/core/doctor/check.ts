import type { Context } from "../../shared/context.js";
import type { InstalledPlugin } from "../plugin/index.js";
import type { InstalledVllm, Venv } from "../venv/index.js";
import type { Device } from "./device-probe.js";

export type Status = "ok" | "warn" | "fail" | "skip";

export interface Finding {
  readonly status: Status;
  readonly message: string;
  /** What to do next, best as the exact command. */
  readonly hint?: string | undefined;
  /** `--fix` repaired what was found. */
  readonly fixed?: true;
}

/** What earlier checks found out and later ones need. */
export interface Facts {
  venv: Venv;
  vllm: InstalledVllm;
  /** No install is under way or half done, so what is found will still be so. */
  settled: true;
  plugin: InstalledPlugin;
  device: Device;
}

export interface Subject {
  readonly context: Context;
  /** The environment's folder; it exists. */
  readonly path: string;
  readonly model: string | undefined;
  /** Words for vLLM, as after the -- of kivi serve. */
  readonly vllmArgs: readonly string[];
  readonly fix: boolean;
  readonly facts: Partial<Facts>;
}

export interface Check {
  readonly id: string;
  readonly title: string;
  /** Facts without which the check is skipped. */
  readonly needs?: readonly (keyof Facts)[];
  /** What is shown while it runs, for checks that take seconds. */
  readonly progress?: string;
  run(subject: Subject): Promise<Finding> | Finding;
}

export interface CheckResult extends Finding {
  readonly id: string;
  readonly title: string;
}

export function ok(message: string): Finding {
  return { status: "ok", message };
}

export function warn(message: string, hint?: string): Finding {
  return { status: "warn", message, hint };
}

export function fail(message: string, hint?: string): Finding {
  return { status: "fail", message, hint };
}

export function skip(message: string): Finding {
  return { status: "skip", message };
}

/** A fact that the check names in `needs`. */
export function need<K extends keyof Facts>({ facts }: Subject, name: K): Facts[K] {
  const value = facts[name];
  if (value === undefined) throw new Error(`the check does not list "${name}" among its needs`);
  return value as Facts[K];
}
