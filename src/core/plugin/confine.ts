import { existsSync, lstatSync, realpathSync, type Stats } from "node:fs";
import { dirname, isAbsolute, join, normalize, relative, resolve, sep } from "node:path";
import { systemCode } from "../../shared/errors.js";

function isInside(path: string, folder: string): boolean {
  const way = relative(folder, path);
  return way !== "" && way !== ".." && !way.startsWith(`..${sep}`) && !isAbsolute(way);
}

/** The real place of a file: links in the folders above it are followed, the file itself is not. */
function realPlace(path: string): string {
  let folder = dirname(path);
  while (!existsSync(folder)) folder = dirname(folder);
  return join(realpathSync(folder), relative(folder, path));
}

/**
 * Where a path that a file on disk names lies: below `folder`, also where folders on the way are links. Undefined for
 * any other, and for one that is absolute, has a `..` to go through, or has a character that no path can.
 */
export function confined(path: string, folder: string): string | undefined {
  if (path === "" || path.includes("\0") || isAbsolute(path)) return undefined;
  const place = resolve(folder, normalize(path));
  return isInside(place, folder) && isInside(realPlace(place), realpathSync(folder)) ? place : undefined;
}

const NOTHING = ["ENOENT", "ENOTDIR", "ENAMETOOLONG"];

/** What is at a path, a link itself rather than what it leads to; undefined where nothing is, or could be. */
export function lookAt(path: string): Stats | undefined {
  try {
    return lstatSync(path);
  } catch (error) {
    if (NOTHING.includes(systemCode(error) ?? "")) return undefined;
    throw error;
  }
}
