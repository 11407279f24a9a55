/** What holds of the sources and templates as a whole; lint forbids shells, pickle and eval beside it. */
import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { describe, expect, it } from "vitest";
import { parseAllDocuments } from "yaml";
import { assembleDeployment } from "../../src/core/deploy/index.js";
import { assembleProject } from "../../src/core/plugin/project.js";
import { resolvePaths } from "../../src/shared/paths.js";
import { repository, temporaryFolder } from "../helpers/cli.js";

const paths = resolvePaths(process.env);

/** Every source and template that a user's machine runs. */
function* sources(): Generator<[string, string]> {
  for (const folder of [
    "src",
    "bin",
    "templates",
    "bench/kivi_bench",
    "python-plugin/vllm_kivi",
    "triton-kernels",
  ]) {
    for (const entry of readdirSync(join(repository, folder), { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath, entry.name);
      if (entry.isFile() && /\.(ts|js|mjs|py|sh|ya?ml|toml)$/.test(entry.name) && !path.includes("/tests/"))
        yield [relative(repository, path), readFileSync(path, "utf8")];
    }
  }
  for (const name of ["cell.py", "client.py", "kernels.py", "fetch_smollm2.py"])
    yield [`bench/${name}`, readFileSync(join(repository, "bench", name), "utf8")];
}

describe("the sources", () => {
  it.each([
    ["let a model bring code of its own", /trust[-_]remote[-_]code/i],
    ["let vLLM unpickle what another process sends", /ALLOW_INSECURE_SERIALIZATION/],
    [
      "switch the check of certificates off",
      /rejectUnauthorized|NODE_TLS_REJECT|verify=False|--trusted-host|--allow-insecure/,
    ],
    ["render words into a program", /\bsh -c\b|\bbash -c\b|CMD-SHELL/],
  ])("do not %s", (_, pattern) => {
    const all = [...sources()];
    expect(all.length).toBeGreaterThan(200);
    expect(all.filter(([, text]) => pattern.test(text)).map(([path]) => path)).toEqual([]);
  });

  it("are packed without what a link leads to", async () => {
    const root = temporaryFolder();
    const plugin = join(root, "python-plugin", "vllm_kivi");
    cpSync(join(repository, "templates"), join(root, "templates"), { recursive: true });
    mkdirSync(plugin, { recursive: true });
    mkdirSync(join(root, "elsewhere"));
    for (const path of ["LICENSE", "secret.py", "elsewhere/secret.py"]) writeFileSync(join(root, path), "");
    writeFileSync(join(plugin, "__init__.py"), "");
    symlinkSync(join(root, "secret.py"), join(plugin, "linked.py"));
    symlinkSync(join(root, "elsewhere"), join(plugin, "linked"));
    const own = {
      ...paths,
      root,
      templates: join(root, "templates"),
      pythonPlugin: join(root, "python-plugin"),
    };
    const { files } = await assembleProject({ ...own, tritonKernels: join(root, "none") }, "1.2.3");
    const packed = files.map(({ path }) => path).filter((path) => path.startsWith("vllm_kivi/"));
    expect(packed.sort()).toEqual(["vllm_kivi/__init__.py", "vllm_kivi/version.py"]);
  });
});

it("a deployment starts programs by argv: no shell in the image, Compose or Kubernetes", async () => {
  const project = await assembleProject(paths, "1.2.3");
  const options = { model: "o/n", image: "i:1", preset: "k4v4", port: 8000, tensorParallel: 1 } as const;
  const files = await assembleDeployment(paths, project, options);
  const read = (name: string) => files.find(({ path }) => path === name)?.data.toString("utf8") ?? "";
  const starts = read("Dockerfile")
    .split("\n")
    .filter((line) => /^(RUN|CMD|ENTRYPOINT|SHELL)\b/.test(line));
  for (const line of starts) expect(JSON.parse(line.replace(/^\w+ /, ""))).toEqual(expect.any(Array));
  expect(starts.length).toBeGreaterThan(0);

  const argvs: unknown[] = [];
  const collect = (value: unknown): void => {
    if (typeof value !== "object" || value === null) return;
    for (const [key, inner] of Object.entries(value)) {
      if (["entrypoint", "command", "args", "test"].includes(key)) argvs.push(inner);
      collect(inner);
    }
  };
  for (const name of ["compose.yaml", "kubernetes.yaml"])
    for (const document of parseAllDocuments(read(name))) collect(document.toJS());
  expect(argvs).toHaveLength(5);
  for (const argv of argvs) {
    expect(argv).toEqual(expect.any(Array));
    expect((argv as string[])[0]).not.toMatch(/(^|\/)(ba|da)?sh$|^CMD-SHELL$/);
  }
});
