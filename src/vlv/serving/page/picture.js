// Pictures as data URLs: read from files, downscaled, and saved as files.

const MAX_BYTES = 100_000_000;

/** A file that is refused without being sent; `code` is the server's error code. */
export class InvalidPicture extends Error {
  constructor(code) {
    super(code);
    this.code = code;
  }
}

/** {url, name} of a file. */
export async function readFile(file) {
  if (file.size === 0) throw new InvalidPicture("empty");
  if (file.size > MAX_BYTES) throw new InvalidPicture("too-large-file");
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new InvalidPicture("corrupt"));
    reader.readAsDataURL(file);
  });
  // The browser guesses the type from the name; the server looks at the data.
  const type = file.type.startsWith("image/") ? file.type : "image/png";
  return { url: `data:${type};base64,${url.slice(url.indexOf(",") + 1)}`, name: file.name };
}

/** A picture with sides of at most `side` pixels; null if the browser cannot show it. */
export async function downscaled(url, side) {
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

/** Saves data, or parts of them, as a file. */
export function save(name, data, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(Array.isArray(data) ? data : [data], { type }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

/** A file's name without its extension. */
export function stem(name) {
  return name.replace(/\.[^./]*$/, "") || "picture";
}
