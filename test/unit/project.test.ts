/** What goes into the plugin's wheel. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { assembleProject } from "../../src/core/plugin/project.js";
import { resolvePaths } from "../../src/shared/paths.js";

it("holds every kernel, those in CUDA and their headers too, and no test", async () => {
  const paths = resolvePaths(process.env);
  const { files } = await assembleProject(paths, "1.2.3");
  const kernels = readdirSync(paths.tritonKernels).filter((name) => name.endsWith(".py"));
  const cuda = readdirSync(join(paths.tritonKernels, "cuda")).map((name) => `cuda/${name}`);
  expect(cuda).toContain("cuda/decode.cu");
  expect(files.map(({ path }) => path)).toEqual(
    expect.arrayContaining([...kernels, ...cuda].map((name) => `vllm_kivi/kernels/${name}`)),
  );
  expect(files.filter(({ path }) => path.includes("test"))).toEqual([]);
});

it("holds the version and the releases that the checkout's own sources have, as npm run version writes them", async () => {
  const paths = resolvePaths(process.env);
  const { version } = JSON.parse(readFileSync(join(paths.root, "package.json"), "utf8")) as {
    version: string;
  };
  const { files } = await assembleProject(paths, version);
  const rendered = files.find(({ path }) => path === "vllm_kivi/version.py")?.data.toString("utf8");
  expect(readFileSync(join(paths.pythonPlugin, "vllm_kivi", "version.py"), "utf8")).toBe(rendered);
});
