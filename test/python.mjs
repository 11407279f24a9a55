// The Python side of `npm test`: lint, types, unit tests, every Triton kernel under the interpreter, and the tests that
// run real vLLM engines. All stages run, so that one report shows everything that fails.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { root, stage } from "./stages.mjs";

function pythonFiles(folder) {
  const path = join(root, folder);
  return existsSync(path) ? readdirSync(path).filter((name) => name.endsWith(".py")) : [];
}

/** Kernels that no test names: a kernel that is never run under the interpreter is not covered. */
function untestedKernels() {
  const folder = join(root, "triton-kernels");
  const tests = pythonFiles("triton-kernels/tests").map((name) =>
    readFileSync(join(folder, "tests", name), "utf8"),
  );
  return pythonFiles("triton-kernels").filter((name) => {
    const isKernel = readFileSync(join(folder, name), "utf8").includes("@triton.jit");
    const word = new RegExp(`\\b${name.replace(/\.py$/, "")}\\b`);
    return isKernel && !tests.some((text) => word.test(text));
  });
}

function kernelStage(pytest) {
  const untested = untestedKernels();
  if (untested.length > 0) {
    console.error(`\nerror: triton-kernels/tests has no test for ${untested.join(", ")}`);
    return false;
  }
  if (pythonFiles("triton-kernels").length === 0) return true;
  return stage("Triton kernels, interpreted", [...pytest, "triton-kernels/tests"], { TRITON_INTERPRET: "1" });
}

/** Runs all Python checks with the tools of an environment; tells whether all passed. */
export function runPython(venv) {
  const bin = (name) => join(venv, "bin", name);
  const python = bin("python");
  // Tests of one folder run in one process of their own: their helpers are plain modules beside them.
  const pytest = [
    python,
    "-m",
    "pytest",
    "-ra",
    "--strict-markers",
    "--timeout=900",
    "-p",
    "no:cacheprovider",
  ];
  process.env.PATH = `${join(venv, "bin")}:${process.env.PATH}`;
  const results = [
    stage("Python lint", [bin("ruff"), "check", "."]),
    stage("Python format", [bin("ruff"), "format", "--check", "."]),
    stage("Python types", [python, "-m", "mypy"]),
    stage("plugin tests", [...pytest, "python-plugin/tests"]),
    stage("bench tests", [...pytest, "bench/tests"]),
    kernelStage(pytest),
    stage("engine tests", [...pytest, "test/engine"]),
  ];
  return results.every(Boolean);
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { prepareEnvironment } = await import("./environment.mjs");
  process.exitCode = runPython((await prepareEnvironment()).path) ? 0 : 1;
}
