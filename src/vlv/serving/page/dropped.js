// Pictures that were chosen or dropped: single files, and what folders hold.

// Browsers know no type of these on every system.
const PICTURE_NAMES = /\.(avif|heic|heif|hif)$/i;

/**
 * @param {FileList | File[]} files of an input
 * @returns {{file: File, path: string}[]} all files; of a chosen folder, its pictures
 */
export function chosen(files) {
  if (![...files].some((file) => file.webkitRelativePath)) return [...files].map((file) => ({ file, path: file.name }));
  return ofFolders([...files].map((file) => ({ file, path: file.webkitRelativePath })));
}

/**
 * @param {DataTransfer} transfer of a drop; read it at once, since a browser clears it
 * @returns {Promise<{file: File, path: string}[]> | null} the pictures of dropped folders and
 *   beside them; null if there is no folder
 */
export function droppedFolders(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return null;
  return Promise.all(entries.map(filesIn)).then((found) => ofFolders(found.flat()));
}

async function filesIn(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ file, path: entry.fullPath.slice(1) }];
  }
  const reader = entry.createReader();
  const inside = [];
  // A browser gives a hundred entries at a time.
  for (let some = null; some === null || some.length; inside.push(...some)) {
    some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
  }
  return (await Promise.all(inside.map(filesIn))).flat();
}

// The pictures, by path. Where there is one folder, paths begin in it: captions are to be unpacked
// there, beside the pictures.
function ofFolders(files) {
  const pictures = files.filter(({ file }) => isPicture(file));
  pictures.sort((a, b) => a.path.localeCompare(b.path, undefined, { numeric: true }));
  const tops = new Set(pictures.map(({ path }) => path.slice(0, path.indexOf("/") + 1)));
  if (tops.size !== 1) return pictures;
  const [top] = tops;
  return pictures.map(({ file, path }) => ({ file, path: path.slice(top.length) }));
}

function isPicture(file) {
  return !file.name.startsWith(".") && (file.type.startsWith("image/") || PICTURE_NAMES.test(file.name));
}
