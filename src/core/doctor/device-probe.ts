import { join } from "node:path";
import { z } from "zod";
import type { Context } from "../../shared/context.js";
import { childError } from "../../shared/errors.js";
import { runChecked } from "../../shared/process.js";
import type { Venv } from "../venv/index.js";

const MARK = "KIVI_DEVICE ";

const gpu = z.strictObject({
  name: z.string(),
  capability: z.tuple([z.number(), z.number()]),
  free_bytes: z.number(),
  total_bytes: z.number(),
});

/** What templates/probes/inspect_device.py prints. */
const device = z.strictObject({
  driver: z.strictObject({ cuda: z.number(), init: z.number() }).nullable(),
  torch: z
    .strictObject({ version: z.string(), cuda: z.string().nullable(), hip: z.string().nullable() })
    .nullable(),
  torch_error: z.string().nullable(),
  gpus: z.array(gpu),
  compiler: z.strictObject({ works: z.boolean(), message: z.string() }),
});

export type Gpu = z.output<typeof gpu>;
export type Device = z.output<typeof device>;

/** Asks the environment's PyTorch, and the driver, for the GPUs. */
export async function probeDevice(context: Context, venv: Venv): Promise<Device> {
  const probe = join(context.paths.templates, "probes", "inspect_device.py");
  const { stdout } = await runChecked(
    context.runner,
    { argv: [venv.python, "-B", probe], readOnly: true },
    {
      what: "Asking PyTorch for the GPU",
      code: "device-unknown",
      hint: `Run it by hand to see more: ${venv.python} -c 'import torch; torch.cuda.init()'`,
      cwd: venv.path,
      signal: context.signal,
      timeoutMs: 120_000,
    },
  );
  const line = stdout.split("\n").findLast((text) => text.startsWith(MARK));
  if (line === undefined) throw childError("device-unknown", `${probe} printed no answer.`);
  return device.parse(JSON.parse(line.slice(MARK.length)));
}
