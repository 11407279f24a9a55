import type { CommandSpec } from "../shared/command.js";
import { bench } from "./bench.js";
import { benchKernels } from "./bench-kernels.js";
import { demo } from "./demo.js";
import { doctor } from "./doctor.js";
import { gate } from "./gate.js";
import { generate } from "./generate.js";
import { install } from "./install.js";
import { plan } from "./plan.js";
import { report } from "./report.js";
import { serve } from "./serve.js";
import { uninstall } from "./uninstall.js";

/** Every command, in the order of `kivi --help`. */
export const commands: readonly CommandSpec[] = [
  install,
  uninstall,
  doctor,
  generate,
  serve,
  bench,
  benchKernels,
  report,
  gate,
  plan,
  demo,
];
