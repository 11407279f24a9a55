/** What `kivi generate --deploy` writes, read as its readers do. No container was run with it. */
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { execa, execaSync } from "execa";
import { describe, expect, it } from "vitest";
import { parse, parseAllDocuments } from "yaml";
import { fillIn } from "../../src/core/deploy/yaml.js";
import { SUPPORTED_VLLM, versionInRange } from "../../src/core/venv/supported.js";
import { kivi, temporaryFolder } from "../helpers/cli.js";
import { treeOf } from "../helpers/tree.js";

const home = temporaryFolder();
let count = 0;

const has = (...argv: [string, ...string[]]): boolean =>
  execaSync(argv[0], argv.slice(1), { reject: false }).exitCode === 0;
const hasCompose = has("docker", "compose", "version");
const hasKubectl = has("kubectl", "version", "--client");

async function generate(...options: string[]): Promise<{ folder: string; read: (path: string) => string }> {
  const folder = join(home, `deploy-${count++}`);
  const { code, stderr } = await kivi(["generate", folder, "--deploy", ...options], { home });
  expect({ code, stderr }).toMatchObject({ code: 0 });
  return { folder, read: (path) => readFileSync(join(folder, path), "utf8") };
}

/** The documents by YAML 1.2, and the same by 1.1, whose bare words mean more: Kubernetes reads by that. */
function documents(text: string): unknown[] {
  const by = (version: "1.1" | "1.2") =>
    [...parseAllDocuments(text, { version })].map((document) => {
      expect(document.errors).toEqual([]);
      return document.toJS() as unknown;
    });
  expect(by("1.1")).toEqual(by("1.2"));
  return by("1.2");
}

const ARGUMENTS = (model: string, preset: string, port: number, gpus: number, ...more: string[]) => [
  ...[model, "--kv-cache-dtype", `kivi_${preset}`, "--host", "0.0.0.0", "--port", String(port)],
  ...["--tensor-parallel-size", String(gpus), ...more],
];

const FULL = ["--model", "Qwen/Qwen3-32B", "--image", "registry.example.com:5000/ml/vllm-kivi:v1"];
FULL.push("--preset", "k4v2", "--port", "9000", "--tensor-parallel", "2", "--max-model-len", "8192");
const FULL_ARGUMENTS = ARGUMENTS("Qwen/Qwen3-32B", "k4v2", 9000, 2, "--max-model-len", "8192");

describe("kivi generate --deploy", () => {
  it("writes an image of the supported vLLM and of the plugin project as it is", async () => {
    const { folder, read } = await generate("--model", "Qwen/Qwen3-0.6B");
    const lines = read("Dockerfile")
      .split("\n")
      .filter((line) => line !== "" && !line.startsWith("#"));
    const [from = "", copy, run = "", ...rest] = lines;
    const tag = /^FROM vllm\/vllm-openai:v(\d+\.\d+\.\d+)$/.exec(from)?.[1] ?? "";
    expect(versionInRange(tag, SUPPORTED_VLLM)).toBe(true);
    expect(copy).toBe("COPY plugin /opt/vllm-kivi");
    const argv = JSON.parse(run.replace(/^RUN /, "")) as string[];
    expect([argv.at(-1), argv.includes("--no-deps"), rest]).toEqual(["/opt/vllm-kivi", true, []]);
    const plugin = join(home, "plugin");
    expect((await kivi(["generate", plugin], { home })).code).toBe(0);
    expect(treeOf(join(folder, "plugin"))).toEqual(treeOf(plugin));
  });

  it("writes a Compose file", async () => {
    const [file] = documents((await generate(...FULL)).read("compose.yaml"));
    expect(file).toMatchObject({
      services: {
        vllm: {
          build: ".",
          image: "registry.example.com:5000/ml/vllm-kivi:v1",
          entrypoint: ["vllm", "serve"],
          command: FULL_ARGUMENTS,
          environment: { HF_HOME: "/models/huggingface", HF_TOKEN_PATH: "/run/secrets/hf-token" },
          secrets: ["hf-token"],
          ports: [{ host_ip: "127.0.0.1", published: "9000", target: 9000 }],
          volumes: [{ type: "volume", source: "models", target: "/models" }],
          deploy: {
            resources: { reservations: { devices: [{ driver: "nvidia", count: 2, capabilities: ["gpu"] }] } },
          },
        },
      },
      volumes: { models: {} },
      secrets: { "hf-token": {} },
    });
  });

  it("writes a health check that tells a server that answers from one that does not", async () => {
    let status = 200;
    const asked: string[] = [];
    const server = createServer((request, response) => {
      asked.push(request.url ?? "");
      response.writeHead(status).end();
    }).listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    const { port } = server.address() as AddressInfo;
    const { read } = await generate("--model", "Qwen/Qwen3-0.6B", "--port", String(port));
    const check = parse(read("compose.yaml")).services.vllm.healthcheck.test as string[];
    const [kind, program = "", ...args] = check;
    expect(kind).toBe("CMD");
    const probe = async () => (await execa(program, args, { reject: false })).exitCode;
    expect(await probe()).toBe(0);
    status = 503;
    expect(await probe()).toBe(1);
    server.close();
    expect(await probe()).toBe(1);
    expect(asked).toEqual(["/health", "/health"]);
  });

  it("writes Kubernetes manifests", async () => {
    const [claim, deployment, service, ...rest] = documents(
      (await generate(...FULL)).read("kubernetes.yaml"),
    );
    expect(rest).toEqual([]);
    const health = { httpGet: { path: "/health", port: "http" } };
    const labels = { "app.kubernetes.io/name": "vllm-kivi" };
    expect(claim).toMatchObject({ kind: "PersistentVolumeClaim", metadata: { name: "vllm-kivi-models" } });
    expect(deployment).toMatchObject({
      apiVersion: "apps/v1",
      kind: "Deployment",
      spec: {
        strategy: { type: "Recreate" },
        selector: { matchLabels: labels },
        template: {
          metadata: { labels },
          spec: {
            enableServiceLinks: false,
            containers: [
              {
                image: "registry.example.com:5000/ml/vllm-kivi:v1",
                command: ["vllm", "serve"],
                args: FULL_ARGUMENTS,
                env: [
                  { name: "HF_HOME", value: "/models/huggingface" },
                  {
                    name: "HF_TOKEN",
                    valueFrom: { secretKeyRef: { name: "hf-token", key: "token", optional: true } },
                  },
                ],
                ports: [{ name: "http", containerPort: 9000 }],
                startupProbe: health,
                readinessProbe: health,
                livenessProbe: health,
                resources: { limits: { "nvidia.com/gpu": "2" } },
                volumeMounts: [
                  { name: "models", mountPath: "/models" },
                  { name: "shm", mountPath: "/dev/shm" },
                ],
              },
            ],
            volumes: [
              { name: "models", persistentVolumeClaim: { claimName: "vllm-kivi-models" } },
              { name: "shm", emptyDir: { medium: "Memory" } },
            ],
          },
        },
      },
    });
    expect(service).toMatchObject({
      kind: "Service",
      spec: { selector: labels, ports: [{ port: 9000, targetPort: "http" }] },
    });
  });

  it("has defaults, and leaves no place of a template open", async () => {
    const { read } = await generate("--model", "/models/my.model");
    const [compose] = documents(read("compose.yaml"));
    expect(compose).toMatchObject({
      services: {
        vllm: { image: "vllm-kivi:0.1.0", command: ARGUMENTS("/models/my.model", "k4v4", 8000, 1) },
      },
    });
    for (const name of ["compose.yaml", "kubernetes.yaml"]) {
      expect(JSON.stringify(documents(read(name)))).not.toMatch(/[:[,]null/);
    }
  });

  it("writes words that YAML would read as something else as the words that they are", async () => {
    const { read } = await generate("--model", "yes", "--image", "1e3");
    expect(documents(read("compose.yaml"))[0]).toMatchObject({
      services: { vllm: { image: "1e3", command: expect.arrayContaining(["yes"]) } },
    });
    expect(documents(read("kubernetes.yaml"))[1]).toMatchObject({
      spec: { template: { spec: { containers: [{ image: "1e3", args: expect.arrayContaining(["yes"]) }] } } },
    });
  });

  it("says what it would write, and writes nothing", async () => {
    const folder = join(home, "planned");
    const args = ["generate", folder, "--deploy", "--model", "org/name", "--dry-run"];
    const { code, stdout } = await kivi(args, { home });
    expect(code).toBe(0);
    expect(stdout).toContain(`Write a deployment of the plugin 0.1.0 to ${folder}`);
    expect(existsSync(folder)).toBe(false);
  });
});

describe("kivi generate refuses", () => {
  const hostile = [
    "$(id)",
    "a b",
    'a"b',
    "a'b",
    "a\nb: c",
    "a#b",
    "a: b",
    "{{name}}",
    "`id`",
    "a;b",
    "$HOME",
    "",
  ];
  it.each([
    ...[
      ...hostile,
      "-x",
      "--help",
      "a/-x",
      "a/b/c",
      "./here",
      "/models",
      "/etc/passwd",
      "/models/../etc",
    ].map((value) => ["model", value, ["--deploy"]] as const),
    ...[...hostile, "-x", "UPPER", "a/", "a:b:c", `a@sha256:${"0".repeat(64)}`, "a".repeat(256)].map(
      (value) => ["image", value, ["--deploy", "--model=org/name"]] as const,
    ),
    ["preset", "k4v4\n", ["--deploy", "--model=org/name"]],
    ["port", "0x50", ["--deploy", "--model=org/name"]],
    ["port", "65536", ["--deploy", "--model=org/name"]],
    ["tensor-parallel", "1;id", ["--deploy", "--model=org/name"]],
    ["max-model-len", "8k", ["--deploy", "--model=org/name"]],
    ["model", "org/name", []],
    ["port", "8000", []],
  ] as const)("--%s=%j with %j", async (flag, value, more) => {
    const folder = join(home, "refused");
    const { code, stdout } = await kivi(["generate", folder, `--${flag}=${value}`, ...more, "--json"], {
      home,
    });
    expect(code).toBe(2);
    expect(JSON.parse(stdout).error).toMatchObject({
      code: "invalid-value",
      message: expect.stringMatching(new RegExp(`^--${flag}: `)),
    });
    expect(existsSync(folder)).toBe(false);
  });

  it.each([
    [["--deploy"], "--model"],
    [["--deploy", "--model", "org/name", "--wheel"], "--wheel"],
  ])("%j", async (options, flag) => {
    const { code, stderr } = await kivi(["generate", join(home, "refused"), ...options], { home });
    expect({ code, stderr }).toMatchObject({ code: 2, stderr: expect.stringContaining(`${flag}: `) });
  });
});

describe("a template's places", () => {
  const TEMPLATE = "# why\nlist: [kept, 1e3]\nplace: null\n---\nplace: null\n";

  it.each([
    ["yes"],
    ["1:30"],
    ["0o7"],
    ["~"],
    ["a: b # c"],
    ["- x"],
    ['"'],
    ["'"],
    ["a\n---\nb: c"],
    ["\u0000\u2028\\"],
  ])("take %j as text", (text) => {
    const filled = fillIn(TEMPLATE, [[[["place"], text]], [[["place"], [text]]]], "here");
    expect(filled).toContain("# why");
    expect(documents(filled)).toEqual([{ list: ["kept", 1000], place: text }, { place: [text] }]);
  });

  it.each([[["list"]], [["nowhere"]]])("must be there and open: %j", (path) => {
    expect(() => fillIn(TEMPLATE, [[[path, "x"]]], "here")).toThrow(/^here: document 0 has no null at/);
  });
});

describe("the readers themselves", () => {
  it.skipIf(!hasCompose)("docker compose config takes the Compose file", async () => {
    const { folder } = await generate(...FULL);
    const { stdout } = await execa("docker", [
      "compose",
      "--project-directory",
      folder,
      "config",
      "--format",
      "json",
    ]);
    expect(JSON.parse(stdout).services.vllm.command).toEqual(FULL_ARGUMENTS);
  });

  // Without a cluster kubectl knows the types of workloads only where it changes them: so it is asked for a change, and
  // a field that it does not know is missing from what it prints.
  it.skipIf(!hasKubectl)("kubectl knows every field of the Deployment", async () => {
    const deployment = parseAllDocuments((await generate(...FULL)).read("kubernetes.yaml"))[1];
    const argv = [
      "set",
      "image",
      "--local",
      "--dry-run=client",
      "--filename=-",
      "--output=json",
      "vllm=other",
    ];
    const { stdout } = await execa("kubectl", argv, { input: String(deployment) });
    const [wanted] = documents(String(deployment).replace(/image: .*/, "image: other"));
    expect(JSON.parse(stdout)).toMatchObject(wanted as object);
  });
});
