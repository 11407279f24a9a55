// What may be in the packages, file by file. Whoever adds a file to one of them says so in the list beside this.
import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

function listed(name) {
  const text = readFileSync(join(root, "release", name), "utf8");
  return text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
}

/** What TypeScript makes of the sources. */
function compiled() {
  const src = join(root, "src");
  const sources = readdirSync(src, { recursive: true, withFileTypes: true }).filter(
    (entry) => entry.isFile() && !entry.name.endsWith(".d.ts"),
  );
  const stems = sources.map((entry) =>
    relative(src, join(entry.parentPath, entry.name)).replace(/\.ts$/, ""),
  );
  return [".built", ...stems.flatMap((stem) => [`${stem}.js`, `${stem}.js.map`, `${stem}.d.ts`])].map(
    (path) => `dist/${path}`,
  );
}

export const expectedNpmFiles = () => [...listed("npm-files.txt"), ...compiled()];

export const expectedWheelFiles = (version) =>
  listed("wheel-files.txt").map((path) => path.replace("VERSION", version));

/** Files that are missing from a package and files that nobody listed, in words. */
export function differences(what, found, expected) {
  const missing = expected.filter((path) => !found.includes(path));
  const unknown = found.filter((path) => !expected.includes(path));
  return [
    ...missing.map((path) => `${what} lacks ${path}`),
    ...unknown.map((path) => `${what} holds ${path}, which release/ does not list`),
  ];
}
