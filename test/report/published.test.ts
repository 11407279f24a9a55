import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openResult, SCHEMA_VERSION } from "../../src/core/bench/index.js";
import { publish, withoutFolders } from "../../src/report/published.js";
import { repository } from "../helpers/cli.js";

const folder = join(repository, "bench", "results");
const readme = readFileSync(join(repository, "README.md"), "utf8");
const results = readdirSync(folder).filter(
  (name) =>
    name.endsWith(".json") && JSON.parse(readFileSync(join(folder, name), "utf8")).kind === "kivi-bench",
);

describe("the results that are checked in", () => {
  it("are what the README, its pages and its pictures show (npm run results)", async () => {
    const files = await publish(repository, readme, join(repository, "templates"));
    const stale = files.filter(({ path, text }) => {
      const file = join(repository, path);
      return !existsSync(file) || readFileSync(file, "utf8") !== text;
    });
    expect(stale.map(({ path }) => path)).toEqual([]);
    expect(files.length).toBeGreaterThan(1);
  });

  it("notices a figure that somebody wrote by hand", async () => {
    const changed = readme.replace("46,592", "47,000");
    expect(changed).not.toBe(readme);
    const files = await publish(repository, changed, join(repository, "templates"));
    expect(files.at(-1)).toEqual({ path: "README.md", text: readme });
  });

  it.each(results)(
    "has a section of the README, is complete, and names no folder of its machine: %s",
    async (name) => {
      expect(readme).toContain(`<!-- measured: ${name.replace(".json", "")}`);
      const result = await openResult(join(folder, name));
      expect(result).toMatchObject({ schemaVersion: SCHEMA_VERSION, complete: true });
      expect(withoutFolders(result)).toEqual(result);
    },
  );
});

it("a result loses its folders, not its names", () => {
  expect(
    withoutFolders({
      model: "/home/me/models/SmolLM2",
      hub: "HuggingFaceTB/SmolLM2",
      argv: ["--text=/tmp/a.txt", "-c", "x /a/b y"],
      rate: 4,
      nothing: null,
    }),
  ).toEqual({
    model: "SmolLM2",
    hub: "HuggingFaceTB/SmolLM2",
    argv: ["--text=a.txt", "-c", "x b y"],
    rate: 4,
    nothing: null,
  });
});
