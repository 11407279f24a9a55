import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { main } from "../../src/cli/main.js";
import { METRICS } from "../../src/core/gates/index.js";
import { repository } from "../helpers/cli.js";
import { gate } from "./gate.js";

const read = (...parts: string[]): string => readFileSync(join(repository, ...parts), "utf8");

describe("the documents", () => {
  it("list the metrics there are, with their suites and meanings", () => {
    const rows = [...read("bench", "README.md").matchAll(/^\| `(\w+)` \| (\w+) \| (.+) \|$/gm)];
    expect(rows.map(([, name, suite, meaning]) => [name, suite, meaning])).toEqual(
      METRICS.map(({ name, suite, meaning }) => [name, suite ?? "any", meaning]),
    );
  });

  it("list them in the help of kivi gate", async () => {
    let help = "";
    await main(["gate", "--help"], { stdout: { write: (text) => (help += text) }, handleSignals: false });
    for (const { name } of METRICS) expect(help).toMatch(new RegExp(`^  ${name} `, "m"));
  });

  it.each([["README.md"], ["bench/README.md"], ["src/commands/gate.ts"], ["src/commands/bench.ts"]])(
    "of %s have only gates that can be read",
    (path) => {
      const examples =
        read(path).match(/\bk\dv\d\.[a-z0-9_]+(\[[^\]]+\])?( drop| rise)? [<>]=? [\d.]+%?/g) ?? [];
      expect(examples.length).toBeGreaterThan(0);
      for (const example of examples) expect(gate(example).text).toBe(example);
    },
  );
});
