// The packed command line on a machine that has nothing of ours: npm fetches what it needs into an empty home.
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { output, ReleaseError } from "./tools.mjs";

const LLAMA_8B = {
  model_type: "llama",
  hidden_size: 4096,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  num_hidden_layers: 32,
  intermediate_size: 14336,
  vocab_size: 128256,
  max_position_embeddings: 131072,
};

/** How to reach the registry is the machine's; everything else of npm and of kivi is this run's own. */
function cleanEnvironment(home) {
  const kept = /^npm_config_(registry|userconfig|cafile|https?_proxy|proxy|noproxy|strict_ssl)$/i;
  const entries = Object.entries(process.env).filter(
    ([name]) => !/^(npm_|KIVI_|XDG_|VIRTUAL_ENV$|NODE_OPTIONS$)/i.test(name) || kept.test(name),
  );
  const userconfig = output(["npm", "config", "get", "userconfig"]).trim();
  return {
    npm_config_userconfig: userconfig,
    ...Object.fromEntries(entries),
    HOME: home,
    npm_config_cache: join(home, ".npm"),
  };
}

/** Runs the package as a user would with npx; throws what went wrong. */
export function smokeTest(tarball, version) {
  const home = mkdtempSync(join(tmpdir(), "kivi-clean-"));
  try {
    const env = cleanEnvironment(home);
    const work = join(home, "work");
    mkdirSync(join(work, "llama"), { recursive: true });
    writeFileSync(join(work, "llama", "config.json"), JSON.stringify(LLAMA_8B));
    const kivi = (...words) =>
      output(["npm", "exec", "--yes", `--package=${tarball}`, "--", "kivi", ...words], { cwd: work, env });
    const expected = [
      [["--version"], new RegExp(`^${version.replaceAll(".", "\\.")}$`)],
      [["plan", "./llama", "--gpu", "h200"], /k4v4/],
      [["install", "--create", "./env", "--device", "cpu", "--dry-run"], /dry run, nothing is changed/],
      [["generate", "./plugin", "--wheel"], /./],
    ];
    for (const [words, pattern] of expected) {
      const said = kivi(...words).trim();
      if (!pattern.test(said))
        throw new ReleaseError(`kivi ${words.join(" ")} out of ${tarball} said:\n${said}`);
    }
    const left = readdirSync(work).sort().join(", ");
    if (left !== "llama, plugin") throw new ReleaseError(`a dry run left files: ${left}`);
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
}
