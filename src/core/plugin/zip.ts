import type { ProjectFile } from "./project.js";

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
  return c;
});

function crc32(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) crc = (crc >>> 8) ^ (CRC_TABLE[(crc ^ byte) & 0xff] as number);
  return (crc ^ 0xffffffff) >>> 0;
}

/** 1980-01-01 00:00, the format's first moment: the archive depends on the contents alone. */
const DOS_DATE = 0x0021;
const UTF8_NAMES = 0x0800;
const REGULAR_FILE_644 = 0o100644;

function header(local: boolean, name: Buffer, data: Uint8Array, offset: number): Buffer {
  const fields = Buffer.alloc(local ? 30 : 46);
  let at = 0;
  const u16 = (value: number): void => {
    at = fields.writeUInt16LE(value, at);
  };
  const u32 = (value: number): void => {
    at = fields.writeUInt32LE(value >>> 0, at);
  };
  u32(local ? 0x04034b50 : 0x02014b50);
  if (!local) u16((3 << 8) | 20); // made on Unix, by format 2.0
  u16(20);
  u16(UTF8_NAMES);
  u16(0); // stored: compression would differ between zlib releases
  u16(0);
  u16(DOS_DATE);
  u32(crc32(data));
  u32(data.length);
  u32(data.length);
  u16(name.length);
  u16(0);
  if (!local) {
    u16(0);
    u16(0);
    u16(0);
    u32(REGULAR_FILE_644 << 16);
    u32(offset);
  }
  return Buffer.concat([fields, name]);
}

/** A zip archive of the files, in their order, uncompressed; the same files always give the same bytes. */
export function zip(files: readonly ProjectFile[]): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const { path, data } of files) {
    const name = Buffer.from(path);
    const start = header(true, name, data, 0);
    directory.push(header(false, name, data, offset));
    parts.push(start, data);
    offset += start.length + data.length;
  }
  const central = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(files.length, 8);
  end.writeUInt16LE(files.length, 10);
  end.writeUInt32LE(central.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...parts, central, end]);
}
