import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { temporaryFolder } from "../helpers/cli.js";
import { cell, result, save } from "./results.js";
import { report } from "./run.js";

const home = temporaryFolder();
const good = result();
save(home, "good.json", good);

async function refused(...argv: string[]): Promise<{ code: string; message: string; hint: string }> {
  const { code, stdout } = await report(home, [...argv, "--json"]);
  expect(code).toBe(2);
  return JSON.parse(stdout).error;
}

describe("a file that cannot be reported", () => {
  it.each([
    ["text.json", "not a result", /is not a result of kivi bench: it is not JSON/],
    ["cut.json", JSON.stringify(good).slice(0, 2000), /it is not JSON/],
    ["other.json", { kind: "other" }, /its "kind" is not "kivi-bench"/],
    ["null.json", "null", /its "kind" is not "kivi-bench"/],
    ["newer.json", { ...good, schemaVersion: 2 }, /its schemaVersion is 2, this kivi knows 1/],
    ["wrong.json", { ...good, complete: "yes" }, /complete: /],
  ])("%s", async (name, content, why) => {
    save(home, name, content);
    const { code, message, hint } = await refused(name);
    expect(code).toBe("not-a-bench-result");
    expect(message).toContain(join(home, name));
    expect(message).toMatch(why);
    expect(hint).toContain("kivi bench");
  });

  it("without cells", async () => {
    save(home, "empty.json", { ...good, cells: [], complete: false });
    expect(await refused("empty.json")).toMatchObject({
      code: "result-empty",
      hint: expect.stringContaining("kivi bench"),
    });
  });

  it("that is not there, or a folder", async () => {
    expect(await refused("good.json", "gone.json")).toMatchObject({
      code: "result-not-found",
      message: `There is no result file ${join(home, "gone.json")}.`,
      hint: "kivi bench MODEL writes one.",
    });
    mkdirSync(join(home, "folder"));
    expect((await refused("folder")).message).toContain("it is a folder");
  });

  it("given twice, or none, or in no known format", async () => {
    expect((await refused("good.json", "./good.json")).code).toBe("result-twice");
    expect((await refused()).code).toBe("missing-argument");
    expect((await refused("good.json", "--format", "htlm")).message).toContain('Did you mean "html"?');
  });
});

describe("results side by side", () => {
  const machine = good.cells[0]?.machine;
  const engine = good.cells[0]?.engine;

  it.each([
    ["model", { ...good, model: "another/model" }],
    ["device", result({ cells: [cell("bf16", { machine: { ...machine, device: "another" } })] })],
    ["max sequences", result({ cells: [cell("bf16", { engine: { ...engine, maxNumSeqs: 64 } })] })],
    ["cache memory", { ...good, config: {} }],
  ])("of another %s are refused with both values", async (field, other) => {
    save(home, "unlike.json", other);
    const { code, stdout } = await report(home, ["good.json", "unlike.json", "--json"]);
    const { error } = JSON.parse(stdout);
    expect({ code, error }).toMatchObject({ code: 2, error: { code: "results-unlike" } });
    expect(error.details.differences).toHaveLength(1);
    expect(error.details.differences[0].field).toBe(field);
    expect(Object.keys(error.details.differences[0].values)).toEqual(["good", "unlike"]);
    expect(error.hint).toContain("--force");
  });

  it("are of one model where its fingerprint says so, whatever its path, and of two where that says so", async () => {
    const [first, second] = ["a".repeat(64), "b".repeat(64)];
    save(home, "here.json", { ...good, model: "/here/model", modelFingerprint: first });
    save(home, "there.json", { ...good, model: "/there/model", modelFingerprint: first });
    save(home, "changed.json", { ...good, model: "/here/model", modelFingerprint: second });
    const same = await report(home, ["here.json", "there.json"]);
    expect(same.code).toBe(0);
    expect(same.stdout).toContain("model: /here/model (here), /there/model (there)");
    const { message } = await refused("here.json", "changed.json");
    expect(message).toContain("model fingerprint: aaaaaaaaaaaa (here), bbbbbbbbbbbb (changed)");
  });

  it("are shown and marked when the reader insists", async () => {
    save(home, "insisted.json", { ...good, model: "another/model" });
    const files = ["good.json", "insisted.json", "--force"];
    const marks = {
      table: "These results cannot be compared",
      markdown: "[!CAUTION]",
      csv: ",false,another/model,",
      junit: '<property name="comparable" value="no. ',
      github: "::error title=kivi bench%3A unlike results::",
      html: '<div class="alert" role="alert"><p>These results cannot be compared',
      json: '"comparable": false',
    };
    for (const [format, mark] of Object.entries(marks)) {
      const { code, stdout } = await report(home, [...files, "--format", format]);
      expect({ format, code, marked: stdout.includes(mark) }).toEqual({ format, code: 0, marked: true });
    }
  });

  it("may differ in versions and in KIVI's settings, which is then said", async () => {
    save(home, "settings.json", { ...good, config: { ...good.config, kivi: { keyGroup: 64 } } });
    const { code, stdout } = await report(home, ["good.json", "settings.json"]);
    expect(code).toBe(0);
    expect(stdout).toContain('KIVI settings: not given (good), {"keyGroup":64} (settings)');
  });

  it("of files of one name are told apart by their paths", async () => {
    mkdirSync(join(home, "a"));
    save(home, "a/good.json", good);
    const { stdout } = await report(home, ["good.json", "a/good.json", "--json"]);
    expect(JSON.parse(stdout).results.map((set: { name: string }) => set.name)).toEqual([
      "good.json",
      "a/good.json",
    ]);
  });
});
