import { describe, expect, it } from "vitest";
import { Redactor, secretFlag } from "../../src/shared/redact.js";

const ENV = {
  HF_TOKEN: "hf_0123456789",
  MY_API_KEY: "hf_0123456789abc",
  PATH: "/usr/bin:/bin",
  "npm_config_//host/:_authToken": "npm_0123456789",
  OPENAI_API_KEY: "EMPTY",
};

describe("Redactor", () => {
  const redactor = new Redactor(ENV, ["serve", "m", "--", "--api-key", "one.two+three", "x", "--port", "1"]);

  it("hides what the environment and the command line say is secret, the longest first", () => {
    expect(
      redactor.text(
        "a hf_0123456789abc b hf_0123456789 c one.two+three d one-two+three /usr/bin EMPTY x npm_0123456789",
      ),
    ).toBe("a *** b *** c *** d one-two+three /usr/bin EMPTY x ***");
  });

  it("hides logins in addresses, and vLLM's own words for its keys", () => {
    expect(redactor.text("https://me:pw@host/x http://token@host https://host/a@b mail@host")).toBe(
      "https://***@host/x http://***@host https://host/a@b mail@host",
    );
    expect(
      redactor.text(
        "args: {'api_key': ['a', 'b'], 'port': 1}, hf_token='c', \"api_key\": \"d\", hf_token=None",
      ),
    ).toBe("args: {'api_key': ***, 'port': 1}, hf_token=***, \"api_key\": ***, hf_token=None");
  });

  it.each([
    [
      ["--api-key", "a", "b", "--port", "8000"],
      ["--api-key", "***", "***", "--port", "8000"],
    ],
    [
      ["--api_key=a=b", "c"],
      ["--api_key=***", "c"],
    ],
    [
      ["--api-ke", "a"],
      ["--api-ke", "***"],
    ],
    [
      ["--hf-token", "--port", "1"],
      ["--hf-token", "--port", "1"],
    ],
    [
      ["--api-server-count", "2", "--hf-config-path", "x"],
      ["--api-server-count", "2", "--hf-config-path", "x"],
    ],
  ])("hides values in the words %j", (words, wanted) => {
    expect(redactor.words(words)).toEqual(wanted);
    expect(redactor.document({ argv: words, deep: [{ argv: words }] })).toEqual({
      argv: wanted,
      deep: [{ argv: wanted }],
    });
  });

  it("knows abbreviations that vLLM's parser takes, and no others", () => {
    const known = ["--api-key", "--api_key", "--api-k", "--hf-t", "--hf-tok=x"].map(secretFlag);
    expect(known).toEqual(["--api-key", "--api-key", "--api-key", "--hf-token", "--hf-token"]);
    expect(["--api-", "--hf", "--api-keys", "api-key", "-a", "--", ""].map(secretFlag)).toEqual(
      Array(7).fill(undefined),
    );
  });
});
