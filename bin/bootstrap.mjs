// Makes a clone ready and then runs a command in it, with nothing but Node: `npm run demo` and `npm test` work
// straight after `git clone`.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const at = (...parts) => join(root, ...parts);
const modified = (path) => (existsSync(path) ? statSync(path).mtimeMs : 0);

function fail(message, code) {
  console.error(`error: ${message}`);
  process.exit(code);
}

function must(title, argv) {
  console.error(`${title} ...`);
  const { status } = spawnSync(argv[0], argv.slice(1), { cwd: root, stdio: ["ignore", 2, 2] });
  if (status !== 0) fail(`${title} failed: ${argv.join(" ")} exited with code ${status}.`, 4);
}

function installPackages() {
  if (modified(at("node_modules", ".package-lock.json")) >= modified(at("package-lock.json"))) return;
  must("Installing Node packages", ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"]);
}

function newestSource(folder) {
  let newest = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true, recursive: true })) {
    const path = join(entry.parentPath ?? entry.path, entry.name);
    newest = Math.max(newest, modified(path));
  }
  return newest;
}

/** Builds beside and swaps, so that a running kivi never sees half a build and removed sources leave no trace. */
function build() {
  const sources = Math.max(
    newestSource(at("src")),
    ...["tsconfig.json", "tsconfig.build.json", "package-lock.json"].map((name) => modified(at(name))),
  );
  if (modified(at("dist", ".built")) > sources) return;
  const fresh = at(`dist.${process.pid}`);
  const compiler = at("node_modules", "typescript", "bin", "tsc");
  must("Building", [process.execPath, compiler, "-p", "tsconfig.build.json", "--outDir", fresh]);
  writeFileSync(join(fresh, ".built"), "");
  const old = at(`dist.${process.pid}.old`);
  if (existsSync(at("dist"))) renameSync(at("dist"), old);
  renameSync(fresh, at("dist"));
  rmSync(old, { recursive: true, force: true });
}

/** Hands signals on and ends as the child ended. */
function become(argv) {
  const child = spawn(argv[0], argv.slice(1), { stdio: "inherit" });
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    // On a terminal the child gets Ctrl-C by itself; a second delivery would count as "kill at once".
    process.on(name, () => (name === "SIGINT" && process.stdin.isTTY ? undefined : child.kill(name)));
  }
  child.on("exit", (code, signal) => {
    process.exitCode = code ?? { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 }[signal] ?? 5;
  });
}

const [task = "", ...args] = process.argv.slice(2);
if (Number(process.versions.node.split(".")[0]) < 20)
  fail(`Node 20 or newer is needed; this is ${process.version}.`, 3);
installPackages();
if (task === "build") build();
else if (task === "test") {
  become([process.execPath, at("test", "run.mjs"), ...args]);
} else if (task === "kivi" || task === "demo") {
  build();
  become([process.execPath, at("bin", "kivi.js"), ...(task === "demo" ? ["demo"] : []), ...args]);
} else fail(`unknown task "${task}"; known: build, test, kivi, demo.`, 2);
