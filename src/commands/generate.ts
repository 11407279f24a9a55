import { PRESET_NAMES } from "../core/plugin/presets.js";
import { defineCommand } from "../shared/command.js";

export const generate = defineCommand({
  name: "generate",
  summary: "write out the plugin as a Python project, or a deployment in containers",
  description: [
    "Writes the plugin project (pyproject, Python package, Triton kernels) into a new folder. It builds on its own with",
    "`uv build` or `pip wheel .`, and gives the files that kivi install places.",
    "",
    "With --deploy, the folder gets a Dockerfile (vLLM's image and the plugin), a Docker Compose file and Kubernetes",
    "manifests, and the project in plugin/.",
  ].join("\n"),
  arguments: [{ name: "dir", description: "a new or empty folder", required: true }],
  options: [
    { flags: "--wheel", description: "also write the finished wheel, into DIR/dist" },
    { flags: "--deploy", description: "write what runs a server in containers" },
    {
      flags: "--model <name>",
      description: "with --deploy: hub name, or path below /models in the container",
    },
    {
      flags: "--image <name>",
      description: "with --deploy: what the built image is called",
      defaultText: "vllm-kivi and kivi's version",
    },
    {
      flags: "--preset <name>",
      description: `with --deploy: ${PRESET_NAMES.join(", ")}`,
      defaultText: "k4v4",
    },
    { flags: "--port <number>", description: "with --deploy: port of the server", defaultText: "8000" },
    {
      flags: "--tensor-parallel <number>",
      description: "with --deploy: GPUs of the engine",
      defaultText: "1",
    },
    {
      flags: "--max-model-len <tokens>",
      description: "with --deploy: longest sequence",
      defaultText: "the model's",
    },
    { flags: "--dry-run", description: "print what would be done and change nothing" },
  ],
  examples: [
    {
      command: "kivi generate ./vllm-kivi-plugin",
      explanation: "for an image build, or to read and change it",
    },
    {
      command: "kivi generate ./deploy --deploy --model Qwen/Qwen3-32B --tensor-parallel 2",
      explanation: "Dockerfile, compose.yaml and kubernetes.yaml for two GPUs",
    },
  ],
  schema: async () => (await import("./generate.schema.js")).schema,
  handler: async () => (await import("./generate.handler.js")).handler,
});
