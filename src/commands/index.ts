import type { CommandSpec } from "../shared/command.js";

/** Every command, in the order of `kivi --help`. */
export const commands: readonly CommandSpec[] = [];
