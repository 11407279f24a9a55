import { pythonVersion } from "../plugin/distribution.js";
import { DISTRIBUTION, damageOf, findInstalled, verifyPlugin } from "../plugin/index.js";
import { clearLeftovers, findLeftovers, type Leftovers } from "../plugin/leftovers.js";
import type { Venv } from "../venv/index.js";
import { type Check, type Finding, fail, need, ok, warn } from "./check.js";
import { findRivals } from "./rivals.js";

function leftoversFinding({ lock, work }: Leftovers, path: string): Finding {
  const repair = `kivi doctor ${path} --fix`;
  if (lock?.held) {
    return warn(
      `${lock.owner} is changing the environment now`,
      `Wait for it and run again. If no kivi runs there, remove ${lock.path}.`,
    );
  }
  if (work?.unfinished) {
    return fail(`an install or uninstall was killed half-way; ${work.path} has what undoes it`, repair);
  }
  const found = [
    ...(lock === undefined ? [] : [`the lock of ${lock.owner}, which is gone (${lock.path})`]),
    ...(work === undefined ? [] : [`files of an ended install (${work.path})`]),
  ];
  return found.length === 0 ? ok("nothing is left of an earlier run") : warn(found.join("; "), repair);
}

const leftovers: Check = {
  id: "leftovers",
  title: "interrupted installs",
  needs: ["venv"],
  run: async (subject) => {
    const venv = need(subject, "venv");
    const found = findLeftovers(venv);
    const finding = leftoversFinding(found, venv.path);
    const unsettled = found.lock?.held || found.work?.unfinished;
    if (!unsettled) subject.facts.settled = true;
    if (!subject.fix || finding.status === "ok" || found.lock?.held) return finding;
    const undone = await clearLeftovers(venv);
    subject.facts.settled = true;
    const done = undone ? "the change that was half done is taken back" : "what was left is removed";
    return { ...ok(`repaired: ${done}`), fixed: true };
  },
};

const plugin: Check = {
  id: "plugin",
  title: "plugin",
  needs: ["venv", "settled"],
  run: (subject) => {
    const venv = need(subject, "venv");
    const found = findInstalled(venv);
    const install = `kivi install ${venv.path}`;
    if (found === undefined) return fail(`${DISTRIBUTION.name} is not installed`, install);
    subject.facts.plugin = found;
    const own = pythonVersion(subject.context.version);
    if (found.version === own) return ok(`${DISTRIBUTION.name} ${found.version}`);
    return fail(`${DISTRIBUTION.name} ${found.version} is installed, and this kivi is ${own}`, install);
  },
};

const files: Check = {
  id: "files",
  title: "files of the plugin",
  needs: ["venv", "plugin"],
  run: (subject) => {
    const plugin = need(subject, "plugin");
    const damage = damageOf(need(subject, "venv"), plugin);
    if (damage !== undefined) return fail(damage.found, damage.hint);
    return ok(`${plugin.files.length} files as RECORD lists them`);
  },
};

function uninstallHint(venv: Venv, owner: string): string {
  const [name] = owner.split(" ");
  return `${venv.python} -m pip uninstall ${name} (or: uv pip uninstall --python ${venv.python} ${name})`;
}

const rivals: Check = {
  id: "rivals",
  title: "other plugins of vLLM",
  needs: ["venv", "plugin"],
  run: async (subject) => {
    const venv = need(subject, "venv");
    const { entries, same, claims } = await findRivals(subject.context, venv);
    const [twin] = same;
    if (twin !== undefined) {
      return fail(
        `${twin.owner} has an entry point "${twin.name}" (${twin.value}) in ${DISTRIBUTION.entryGroup}, as this plugin does`,
        uninstallHint(venv, twin.owner),
      );
    }
    if (claims.length > 0) {
      const named = claims.map(({ owner, claims: words }) => `${owner} names ${words.join(", ")}`);
      return warn(
        `${named.join("; ")} in its code: it may register the same cache, or replace the same parts of vLLM, as this plugin`,
        `If it does: ${claims.map(({ owner }) => uninstallHint(venv, owner)).join("; ")}`,
      );
    }
    const others = entries.filter(({ name }) => name !== DISTRIBUTION.entryName).map(({ name }) => name);
    return ok(others.length === 0 ? "none" : `none has a part of the KIVI cache (${others.join(", ")})`);
  },
};

const loading: Check = {
  id: "loading",
  title: "vLLM loads the plugin",
  needs: ["venv", "vllm", "plugin"],
  progress: "Check in a spawned worker that vLLM loads the plugin",
  run: async (subject) => {
    const { version } = need(subject, "plugin");
    const status = await verifyPlugin(subject.context, need(subject, "venv"), version);
    return ok(
      `registered in a spawned worker with vLLM ${status.vllm}; presets: ${status.presets.join(", ")}`,
    );
  },
};

export const pluginChecks: readonly Check[] = [leftovers, plugin, files, rivals, loading];
