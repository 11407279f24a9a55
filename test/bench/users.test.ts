import { describe, expect, it } from "vitest";
import { usersSection } from "../../src/commands/serving-settings.schema.js";
import { completeConfig } from "../../src/core/bench/index.js";
import { planCells } from "../../src/core/bench/matrix.js";
import { clientCommand, readSteadyState } from "../../src/core/bench/serving/client.js";
import { completeUsers } from "../../src/core/bench/serving/user-settings.js";
import { findMost, keeps } from "../../src/core/bench/serving/users.js";
import type { Venv } from "../../src/core/venv/index.js";
import { recordedText } from "./fixtures.js";

/** Tries of a server that bears so many. */
async function tries(bears: number, most: number): Promise<{ found: object; asked: number[] }> {
  const asked: number[] = [];
  const found = await findMost(most, async (users) => {
    asked.push(users);
    return users <= bears;
  });
  return { found, asked };
}

describe("the most users", () => {
  it("are found by doubling, then between the last two", async () => {
    expect(await tries(11, 512)).toEqual({
      found: { users: 11, broken: 12 },
      asked: [1, 2, 4, 8, 16, 12, 10, 11],
    });
  });

  it("are told to a sixteenth, for any number", async () => {
    for (let bears = 0; bears < 300; bears++) {
      const { found, asked } = await tries(bears, 256);
      const { users, broken } = found as { users: number; broken: number | undefined };
      expect(users).toBeLessThanOrEqual(bears);
      expect(new Set(asked).size).toBe(asked.length);
      if (broken === undefined) expect(users).toBe(256);
      else {
        expect(broken).toBeGreaterThan(bears);
        expect(broken - users).toBeLessThanOrEqual(Math.max(1, users / 16));
      }
    }
  });

  it("may be none, or all that were to be tried", async () => {
    expect(await tries(0, 8)).toEqual({ found: { users: 0, broken: 1 }, asked: [1] });
    expect(await tries(99, 6)).toEqual({ found: { users: 6, broken: undefined }, asked: [1, 2, 4, 6] });
  });
});

describe("one number of users", () => {
  const text = recordedText("client.users.json");

  it("is judged by the requests after the first of each", () => {
    const all = readSteadyState(text, 6, 0);
    const steady = readSteadyState(text, 6, 2);
    expect([all.counted, steady.counted]).toEqual([6, 4]);
    // The client's own figures of all requests agree.
    const saved = JSON.parse(text) as Record<string, number>;
    expect(all.ttftMs.mean).toBeCloseTo(saved.mean_ttft_ms ?? Number.NaN, 3);
    expect(all.ttftMs.p50).toBeCloseTo(saved.p50_ttft_ms ?? Number.NaN, 3);
    expect(all.tpotMs.mean).toBeCloseTo(saved.mean_tpot_ms ?? Number.NaN, 1);
    expect(all.e2elMs.mean).toBeCloseTo(saved.mean_e2el_ms ?? Number.NaN, 0);
    const firsts = (JSON.parse(text).ttfts as number[]).slice(0, 2);
    expect(steady.ttftMs.mean * 4 + 1000 * firsts.reduce((sum, one) => sum + one, 0)).toBeCloseTo(
      all.ttftMs.mean * 6,
      3,
    );
  });

  it("keeps the limits only if its 99th percentile keeps each", () => {
    const run = { users: 2, ...readSteadyState(text, 6, 2) };
    const { ttftMs, tpotMs, e2elMs } = run;
    const limits = { ttftMs: ttftMs.p99, tpotMs: tpotMs.p99, e2elMs: e2elMs.p99 };
    expect(keeps(run, limits)).toBe(true);
    expect(keeps(run, { tpotMs: tpotMs.p99 })).toBe(true);
    for (const name of ["ttftMs", "tpotMs", "e2elMs"] as const) {
      expect(keeps(run, { ...limits, [name]: limits[name] * 0.999 })).toBe(false);
    }
  });

  it("is nothing without the times of each request", () => {
    const { ttfts: _, ...bare } = JSON.parse(text);
    expect(() => readSteadyState(JSON.stringify(bare), 6, 2)).toThrow("no times of each request");
  });
});

describe("the suite concurrency", () => {
  it("is asked for in a section of its own", () => {
    expect(usersSection.safeParse({ most: 64, requests: 1, slo: {} }).error?.issues).toHaveLength(2);
    expect(usersSection.parse({ "input-tokens": 4096, slo: { "tpot-ms": 50 } })).toMatchObject({
      slo: { "tpot-ms": 50 },
    });
  });

  it("has a server without rates, with room for a whole request", () => {
    const base = { python: "/p", device: "cuda", model: "/m", text: "t", output: "o" } as const;
    const config = completeConfig({ ...base, suites: ["concurrency"], users: { most: 700 } });
    expect(config).toMatchObject({ maxModelLen: 2432, users: { ...completeUsers("cuda"), most: 700 } });
    const venv = {
      path: "/venv",
      python: "/venv/bin/python",
      vllm: { distribution: "vllm", version: "0.26.0" },
    } as unknown as Venv;
    const about = {
      environment: { versions: {}, device: "d" },
      model: "f",
      tokenizer: true,
      text: "",
      bench: "/b",
      folder: "/l",
    };
    const [cell] = planCells(config, { ...about, venv });
    expect(cell?.spec.suites).toEqual([]);
    expect(cell?.serving).toMatchObject({ load: undefined, users: { most: 700 } });
  });

  it("asks vLLM's client for so many at a time", () => {
    const about = { python: "/p", script: "/s", url: "u", model: "m", folder: "/f", file: "r", seed: 0 };
    const argv = clientCommand({ ...about, rate: "inf", users: 4, prompts: 12 }, completeUsers("cpu"));
    expect(argv.join(" ")).toContain(
      "--num-prompts 12 --request-rate inf --max-concurrency 4 --burstiness 1",
    );
  });
});
