import { DISTRIBUTION } from "./distribution.js";
import type { PluginProject, ProjectFile } from "./project.js";
import { recordHash, writeRecord } from "./record.js";
import { zip } from "./zip.js";

/**
 * A wheel in memory. kivi writes it itself instead of calling a build backend: the package is pure Python, so a wheel
 * is these files and a RECORD; this way an install needs no network, takes no time, and gives the same bytes always.
 */
export interface Wheel {
  readonly version: string;
  readonly fileName: string;
  /** Name of the dist-info folder. */
  readonly distInfo: string;
  /** All files, RECORD last. */
  readonly files: readonly ProjectFile[];
}

function metadata(version: string, readme: string): string {
  return [
    "Metadata-Version: 2.4",
    `Name: ${DISTRIBUTION.name}`,
    `Version: ${version}`,
    `Summary: ${DISTRIBUTION.summary}`,
    `License-Expression: ${DISTRIBUTION.license}`,
    "License-File: LICENSE",
    `Requires-Python: ${DISTRIBUTION.requiresPython}`,
    "Description-Content-Type: text/markdown",
    "",
    readme,
  ].join("\n");
}

function fileOf(project: PluginProject, path: string): Buffer {
  const found = project.files.find((file) => file.path === path);
  if (found === undefined) throw new Error(`the plugin project has no ${path}`);
  return found.data;
}

export function buildWheel(project: PluginProject): Wheel {
  const distInfo = `${DISTRIBUTION.fileName}-${project.version}.dist-info`;
  const info = (name: string, text: string | Buffer): ProjectFile => ({
    path: `${distInfo}/${name}`,
    data: Buffer.from(text),
  });
  const files = [
    ...project.files.filter(({ path }) => path.startsWith(`${DISTRIBUTION.package}/`)),
    info("METADATA", metadata(project.version, fileOf(project, "README.md").toString("utf8"))),
    info("WHEEL", "Wheel-Version: 1.0\nGenerator: kivi\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
    info(
      "entry_points.txt",
      `[${DISTRIBUTION.entryGroup}]\n${DISTRIBUTION.entryName} = ${DISTRIBUTION.entryTarget}\n`,
    ),
    info("licenses/LICENSE", fileOf(project, "LICENSE")),
  ];
  return {
    version: project.version,
    fileName: `${DISTRIBUTION.fileName}-${project.version}-py3-none-any.whl`,
    distInfo,
    files: withRecord(files, distInfo),
  };
}

/** The files and a RECORD of them, last as the format asks. */
export function withRecord(files: readonly ProjectFile[], distInfo: string): ProjectFile[] {
  const record = `${distInfo}/RECORD`;
  const entries = files.map(({ path, data }) => ({ path, hash: recordHash(data), size: data.length }));
  const text = writeRecord([...entries, { path: record, hash: undefined, size: undefined }]);
  return [...files, { path: record, data: Buffer.from(text) }];
}

export function wheelBytes(wheel: Wheel): Buffer {
  return zip(wheel.files);
}

/** The wheel's files as an installer leaves them: INSTALLER names who did it, and RECORD counts it. */
export function installedFiles(wheel: Wheel): ProjectFile[] {
  const files = wheel.files.filter(({ path }) => path !== `${wheel.distInfo}/RECORD`);
  const installer = { path: `${wheel.distInfo}/INSTALLER`, data: Buffer.from("kivi\n") };
  return withRecord([...files, installer], wheel.distInfo);
}
