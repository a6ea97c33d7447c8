// A zip file of texts, stored without compression (PKWARE's APPNOTE, sections 4.3 and 4.4).

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});
// Names are UTF-8.
const FLAGS = 0x0800;
const VERSION = 20;
// 1 January 1980, the first day that the format knows.
const DATE = 0x0021;

/**
 * @param {{name: string, text: string}[]} files
 * @returns {Uint8Array[]} parts of the zip file, in order
 */
export function zipOf(files) {
  const encoder = new TextEncoder();
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { name, text } of files) {
    const [nameBytes, data] = [encoder.encode(name), encoder.encode(text)];
    const common = [VERSION, FLAGS, 0, 0, DATE].flatMap(short);
    const sizes = [...long(crc32(data)), ...long(data.length), ...long(data.length), ...short(nameBytes.length), ...short(0)];
    parts.push(Uint8Array.from([...long(0x04034b50), ...common, ...sizes]), nameBytes, data);
    const where = [...short(0), ...short(0), ...short(0), ...long(0), ...long(offset)];
    directory.push(Uint8Array.from([...long(0x02014b50), ...short(VERSION), ...common, ...sizes, ...where]), nameBytes);
    offset += 30 + nameBytes.length + data.length;
  }
  const length = directory.reduce((sum, part) => sum + part.length, 0);
  const counts = [...short(0), ...short(0), ...short(files.length), ...short(files.length)];
  const end = Uint8Array.from([...long(0x06054b50), ...counts, ...long(length), ...long(offset), ...short(0)]);
  return [...parts, ...directory, end];
}

function crc32(data) {
  let value = 0xffffffff;
  for (const byte of data) value = CRC_TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

function short(value) {
  return [value & 255, (value >>> 8) & 255];
}

function long(value) {
  return [...short(value), ...short(value >>> 16)];
}
