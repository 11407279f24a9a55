import { describe, expect, it } from "vitest";
import { Output } from "../../src/shared/output.js";

function output(
  options: { columns?: number; isTTY?: boolean; env?: NodeJS.ProcessEnv; json?: boolean } = {},
) {
  const written = { stdout: "", stderr: "" };
  const stream = (name: keyof typeof written) => ({
    isTTY: options.isTTY ?? true,
    columns: options.columns,
    write: (text: string) => {
      written[name] += text;
    },
  });
  const flags = { json: options.json ?? false, quiet: false, verbose: false };
  const env = options.env ?? { TERM: "xterm" };
  return { out: new Output({ stdout: stream("stdout"), stderr: stream("stderr"), env, ...flags }), written };
}

describe("Output", () => {
  it("spins only on a terminal that has a width", () => {
    expect(output({ columns: 80 }).out.interactive).toBe(true);
    expect(output({ columns: 0 }).out.interactive).toBe(false);
    expect(output({ columns: 80, isTTY: false }).out.interactive).toBe(false);
    expect(output({ columns: 80, env: { TERM: "xterm", CI: "1" } }).out.interactive).toBe(false);
  });

  it("colours a terminal, unless NO_COLOR is set, which wins over FORCE_COLOR", () => {
    expect(output().out.colour.red("x")).not.toBe("x");
    expect(output({ isTTY: false }).out.colour.red("x")).toBe("x");
    expect(output({ isTTY: false, env: { FORCE_COLOR: "1" } }).out.colour.red("x")).not.toBe("x");
    expect(output({ env: { TERM: "xterm", NO_COLOR: "1", FORCE_COLOR: "1" } }).out.colour.red("x")).toBe("x");
  });

  it("keeps stdout for the document under --json", () => {
    const { out, written } = output({ json: true });
    out.result("for people");
    out.info("progress");
    out.document({ a: 1 });
    expect(JSON.parse(written.stdout)).toEqual({ a: 1 });
    expect(written.stderr).toBe("progress\n");
  });
});
