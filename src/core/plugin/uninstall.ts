import type { Plan } from "../../shared/plan.js";
import type { Venv } from "../venv/venv.js";
import { Change } from "./change.js";
import { DISTRIBUTION } from "./distribution.js";
import { changedFiles, findInstalled, type InstalledPlugin, removableFiles } from "./installed.js";
import { isHalfDone } from "./leftovers.js";

export interface UninstallReport {
  outcome: "removed" | "absent";
  version: string | undefined;
  removed: number;
  /** Changed by hand and left in place. */
  kept: string[];
}

export interface UninstallPlan extends Plan {
  report(): UninstallReport;
}

/** The actions that take the plugin out, by RECORD; empty when it is not there. */
export function planUninstall(venv: Venv, options: { force?: boolean } = {}): UninstallPlan {
  const force = options.force ?? false;
  const report: UninstallReport = { outcome: "absent", version: undefined, removed: 0, kept: [] };
  const title = `Uninstall ${DISTRIBUTION.name} from ${venv.path}`;
  // Half a change is taken back under the lock, and only then it is known what is installed.
  const halfDone = isHalfDone(venv);
  const found = halfDone ? undefined : findInstalled(venv);
  if (found === undefined && !halfDone) return { title, actions: [], report: () => report };

  const change = new Change(() => venv.sitePackages, `kivi uninstall ${venv.path}`);
  const remove = async (plugin: InstalledPlugin): Promise<void> => {
    const removed = removableFiles(plugin, force);
    await change.guarded(() => change.transaction.swap(removed));
    report.outcome = "removed";
    report.version = plugin.version;
    report.removed = removed.length;
    report.kept = force ? [] : changedFiles(plugin);
  };
  return {
    title,
    report: () => report,
    actions: [
      change.lock(venv.sitePackages),
      {
        title: `Take out the files that RECORD lists${found ? ` (${removableFiles(found, force).length})` : ""} and their caches`,
        path: found?.distInfo ?? venv.sitePackages,
        readOnly: false,
        run: async () => {
          // Looked at again under the lock.
          const now = findInstalled(venv);
          if (now === undefined) change.transaction.swap([]);
          else await remove(now);
        },
      },
      change.finish(venv.sitePackages),
    ],
  };
}
