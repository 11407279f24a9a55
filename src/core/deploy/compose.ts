import { type DeployOptions, serveArguments } from "./options.js";
import type { Places } from "./yaml.js";

/** The image has Python for sure; and unlike urllib, this never asks a proxy. */
const PROBE = [
  "import http.client, sys",
  "server = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=4)",
  "server.request('GET', '/health')",
  "sys.exit(server.getresponse().status != 200)",
].join("; ");

/** What a Compose file leaves to the options. */
export function composePlaces(options: DeployOptions): Places[] {
  const service = ["services", "vllm"];
  return [
    [
      [[...service, "image"], options.image],
      [[...service, "command"], serveArguments(options)],
      [[...service, "ports", 0, "published"], String(options.port)],
      [[...service, "ports", 0, "target"], options.port],
      [[...service, "deploy", "resources", "reservations", "devices", 0, "count"], options.tensorParallel],
      [
        [...service, "healthcheck", "test"],
        ["CMD", "python3", "-c", PROBE, String(options.port)],
      ],
    ],
  ];
}
