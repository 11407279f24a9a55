/**
 * A small environment for the mechanics of install and uninstall: a real venv with a distribution named `vllm` that
 * only loads entry points, and copies of kivi that carry a plugin of a few lines. What vLLM itself does with the real
 * plugin is tested with real vLLM in real-vllm.test.ts and in test/engine.
 */
import { cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { execa, execaSync } from "execa";
import { bareEnvironment, type CliResult, repository, temporaryFolder } from "./cli.js";

const LOADER = `
import os
from importlib.metadata import entry_points

def load_general_plugins():
    allowed = os.environ.get("VLLM_PLUGINS")
    loaded = []
    for entry in entry_points(group="vllm.general_plugins"):
        if allowed is not None and entry.name not in allowed.split(","):
            continue
        try:
            loaded.append(entry.load())
        except Exception as error:
            print("Failed to load plugin", entry.name, error)
    for function in loaded:
        function()
`;

const PLUGIN = {
  good: "",
  /** register() runs and decides not to. */
  idle: "_ok = False",
  raises: "raise RuntimeError('no such attention class')",
  /** Hangs in register() until it is killed. */
  slow: "import pathlib, time; pathlib.Path(os.environ['HOME'], 'verifying').touch(); time.sleep(60)",
} as const;

function pluginSource(behaviour: keyof typeof PLUGIN): string {
  return `
import os
from vllm_kivi.version import __version__
_registered = False

def register():
    global _registered
    _ok = True
    ${PLUGIN[behaviour]}
    _registered = _ok

def status():
    return {"registered": _registered, "version": __version__, "vllm": "0.26.0", "presets": ["k4v4"]}
`;
}

let template: string | undefined;

/** A fresh venv with vLLM's stand-in (or without). */
export function makeVenv(options: { vllm?: string | false; pip?: boolean } = {}): string {
  const { vllm = "0.26.0", pip = false } = options;
  const venv = join(temporaryFolder(), "venv");
  const flags = pip ? [] : ["--without-pip"];
  execaSync("python3", ["-m", "venv", ...flags, venv]);
  if (vllm === false) return venv;
  const site = sitePackages(venv);
  mkdirSync(join(site, "vllm", "plugins"), { recursive: true });
  writeFileSync(join(site, "vllm", "__init__.py"), "");
  writeFileSync(join(site, "vllm", "plugins", "__init__.py"), LOADER);
  const info = join(site, `vllm-${vllm}.dist-info`);
  mkdirSync(info);
  writeFileSync(join(info, "METADATA"), `Metadata-Version: 2.1\nName: vllm\nVersion: ${vllm}\n`);
  writeFileSync(join(info, "RECORD"), "");
  return venv;
}

export function sitePackages(venv: string): string {
  const version = execaSync(join(venv, "bin", "python"), [
    "-c",
    "import sys; print('%d.%d' % sys.version_info[:2])",
  ]).stdout;
  return join(venv, "lib", `python${version}`, "site-packages");
}

export interface App {
  root: string;
  home: string;
  /** Runs this copy of kivi. */
  run(args: readonly string[], options?: { cwd?: string; env?: Record<string, string> }): Promise<CliResult>;
  /** The same, without waiting. */
  start(args: readonly string[], env?: Record<string, string>): ReturnType<typeof execa>;
}

/** A copy of the built kivi with its own version and a plugin of the given behaviour. */
export function makeApp(
  options: { version?: string; plugin?: keyof typeof PLUGIN; extraFiles?: string[] } = {},
): App {
  template ??= readFileSync(join(repository, "package.json"), "utf8");
  const root = temporaryFolder();
  const home = temporaryFolder();
  for (const name of ["bin", "dist", "templates", "LICENSE"]) {
    if (!existsSync(join(repository, name)))
      throw new Error(`${name} is missing: run node bin/bootstrap.mjs build`);
    cpSync(join(repository, name), join(root, name), { recursive: true });
  }
  symlinkSync(join(repository, "node_modules"), join(root, "node_modules"));
  const manifest = { ...JSON.parse(template), version: options.version ?? "0.1.0" };
  writeFileSync(join(root, "package.json"), JSON.stringify(manifest));
  mkdirSync(join(root, "python-plugin", "vllm_kivi", "backend"), { recursive: true });
  mkdirSync(join(root, "triton-kernels", "tests"), { recursive: true });
  const source = join(root, "python-plugin", "vllm_kivi");
  writeFileSync(join(source, "__init__.py"), pluginSource(options.plugin ?? "good"));
  writeFileSync(join(source, "version.py"), '__version__ = "0.0.0"\n');
  writeFileSync(join(source, "backend", "__init__.py"), "");
  for (const name of options.extraFiles ?? []) writeFileSync(join(source, name), "VALUE = 1\n");
  writeFileSync(join(root, "triton-kernels", "decode.py"), "TILE = 16\n");
  writeFileSync(join(root, "triton-kernels", "tests", "test_decode.py"), "");
  const entry = join(root, "bin", "kivi.js");
  const start: App["start"] = (args, env = {}) =>
    execa(process.execPath, [entry, ...args], {
      cwd: home,
      env: bareEnvironment(home, env),
      extendEnv: false,
      reject: false,
      stdin: "ignore",
    });
  return {
    root,
    home,
    start,
    run: async (args, { cwd = home, env = {} } = {}) => {
      const { exitCode, stdout, stderr } = await execa(process.execPath, [entry, ...args], {
        cwd,
        env: bareEnvironment(home, env),
        extendEnv: false,
        reject: false,
        stdin: "ignore",
      });
      return { code: exitCode, stdout, stderr };
    },
  };
}
