// Loaded before kivi (NODE_OPTIONS=--import): ends the process like kill -9 at one of its changes to the file system
// below a folder, before it is made. So each but the first is also found just after the one before.
import { createRequire, syncBuiltinESMExports } from "node:module";

const fs = createRequire(import.meta.url)("node:fs");
const { DIE_BELOW: folder, DIE_AT: at } = process.env;
let made = 0;

function counted(name, of) {
  const operation = of[name];
  of[name] = (path, ...rest) => {
    // A number is a file that was opened before.
    const here = typeof path === "number" ? name === "writeFileSync" : String(path).startsWith(folder);
    if (!here || (name === "openSync" && (rest[0] === undefined || rest[0] === "r")))
      return operation(path, ...rest);
    if (Number(at) === made) process.kill(process.pid, "SIGKILL");
    const result = operation(path, ...rest);
    made += 1;
    return result;
  };
}

const CHANGES = [
  "openSync",
  "writeFileSync",
  "mkdirSync",
  "renameSync",
  "rmSync",
  "rmdirSync",
  "unlinkSync",
  "chmodSync",
];
for (const name of CHANGES) counted(name, fs);
syncBuiltinESMExports();
