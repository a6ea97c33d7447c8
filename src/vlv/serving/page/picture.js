// Pictures as data URLs: from files, made smaller, and onto the disk.

const MAX_BYTES = 100_000_000;

/** A file that need not be sent to be refused; `code` is the server's name of the reason. */
export class NotAPicture extends Error {
  constructor(code) {
    super(code);
    this.code = code;
  }
}

/** {url, name} of a file that a person gave. */
export async function ofFile(file) {
  if (file.size === 0) throw new NotAPicture("empty");
  if (file.size > MAX_BYTES) throw new NotAPicture("too-large-file");
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new NotAPicture("corrupt"));
    reader.readAsDataURL(file);
  });
  // The browser guesses the type from the name; the server looks at the data.
  const type = file.type.startsWith("image/") ? file.type : "image/png";
  return { url: `data:${type};base64,${url.slice(url.indexOf(",") + 1)}`, name: file.name };
}

/** The same picture with sides of at most `side` pixels, for keeping; null if it has no preview. */
export async function shrunk(url, side) {
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    return null;
  }
  const scale = Math.min(1, side / Math.max(image.naturalWidth, image.naturalHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/webp", 0.9);
}

/** Saves data as a file. */
export function save(name, data, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([data], { type }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

/** A file's name without its ending. */
export function stem(name) {
  return name.replace(/\.[^.]*$/, "") || "picture";
}
