import { execaSync } from "execa";

export const asRoot = process.getuid?.() === 0;

/** Whether this process may mount: true for root on a machine or VM, often false in a container. */
export const canMount = asRoot && execaSync("unshare", ["--mount", "true"], { reject: false }).exitCode === 0;
