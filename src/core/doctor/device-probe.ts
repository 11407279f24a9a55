import { z } from "zod";
import type { Context } from "../../shared/context.js";
import type { Venv } from "../venv/index.js";
import { askProbe } from "./probe.js";

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
  return askProbe(context, venv, {
    script: "inspect_device.py",
    mark: "KIVI_DEVICE ",
    answer: device,
    what: "Asking PyTorch for the GPU",
    code: "device-unknown",
    hint: `Run it by hand to see more: ${venv.python} -c 'import torch; torch.cuda.init()'`,
    timeoutMs: 120_000,
  });
}
