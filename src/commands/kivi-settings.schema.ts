/** Readers of KIVI's settings that flags and files share. */
import { integer, retired } from "../shared/values.js";

/** Tokens of a window, within what the plugin takes. */
export const windowTokens = () => integer({ min: 0, max: 4096 }).optional();

const RESIDUALS = [8, 16, 32, 64, 128];

/** Tokens of a run of values. */
export const residualTokens = () =>
  integer()
    .refine((value) => RESIDUALS.includes(value), `expected ${RESIDUALS.join(", ")} tokens`)
    .optional();

/** The one window of earlier versions, which was of keys and values alike; `dashes` as its successors are written. */
export const retiredWindow = (dashes: "--" | "") =>
  retired(
    `is now two settings, ${dashes}key-window (tokens before the open group) and ${dashes}value-window (tokens before the open run)`,
  );
