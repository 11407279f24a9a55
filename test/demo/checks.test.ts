import { describe, expect, it } from "vitest";
import { checkPlatform, checkSpace } from "../../src/core/demo/checks.js";
import { temporaryFolder } from "../helpers/cli.js";

describe("the demo's checks", () => {
  it.each([
    ["darwin", "arm64", /Linux container/],
    ["win32", "x64", /WSL/],
    ["linux", "riscv64", /container/],
  ] as const)("refuses %s on %s and says what to do", (platform, arch, hint) => {
    expect(() => checkPlatform(platform, arch)).toThrow(
      expect.objectContaining({
        code: "platform-unsupported",
        exitCode: 3,
        hint: expect.stringMatching(hint) as string,
      }),
    );
  });

  it("takes Linux on x86-64 and ARM64", () => {
    expect(() => checkPlatform("linux", "x64")).not.toThrow();
    expect(() => checkPlatform("linux", "arm64")).not.toThrow();
  });

  it("measures the disk of a folder that does not exist yet", async () => {
    const folder = `${temporaryFolder()}/not/yet`;
    await expect(checkSpace(folder, 1)).resolves.toBeUndefined();
    await expect(checkSpace(folder, 1e18)).rejects.toMatchObject({ code: "disk-space-low", exitCode: 3 });
  });
});
