import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** A plugin of one file, as an installer leaves it: RECORD has the file's hash and size. Returns the file's path. */
export function installPlugin(sitePackages: string): string {
  const text = "sound\n";
  const hash = createHash("sha256").update(text).digest("base64url");
  const info = "vllm_kivi-0.1.0.dist-info";
  mkdirSync(join(sitePackages, info), { recursive: true });
  writeFileSync(
    join(sitePackages, info, "METADATA"),
    "Metadata-Version: 2.1\nName: vllm-kivi\nVersion: 0.1.0\n",
  );
  const record = [`${info}/METADATA,,`, `vllm_kivi.py,sha256=${hash},${text.length}`, `${info}/RECORD,,`];
  writeFileSync(join(sitePackages, info, "RECORD"), `${record.join("\n")}\n`);
  const file = join(sitePackages, "vllm_kivi.py");
  writeFileSync(file, text);
  return file;
}
