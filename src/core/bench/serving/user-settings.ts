/** The sizes of the suite `concurrency`. */
import type { Device } from "../config.js";
import type { Slo } from "./settings.js";

export interface UserSettings {
  /** Tokens of each prompt and of each answer. */
  readonly inputTokens: number;
  readonly outputTokens: number;
  /** Requests of each user, one after the other; the first, with which all begin at once, is not counted. */
  readonly requests: number;
  /** The most users to try. */
  readonly most: number;
  /** Limits that the 99th percentile has to keep. */
  readonly slo: Slo;
}

export function completeUsers(device: Device, given: Partial<UserSettings> = {}): UserSettings {
  const cpu = device === "cpu";
  return {
    inputTokens: cpu ? 256 : 2048,
    outputTokens: cpu ? 32 : 256,
    requests: 3,
    most: cpu ? 16 : 512,
    slo: cpu ? { ttftMs: 10_000, tpotMs: 500 } : { ttftMs: 2000, tpotMs: 50 },
    ...given,
  };
}
