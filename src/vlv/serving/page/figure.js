// A framed picture, and the ways to choose one: files, the clipboard, random scenes.

import { call, events } from "./api.js";
import { readFile } from "./picture.js";

/** Shows a picture; with a file name it can be saved. */
export function show(figure, url, alt, fileName) {
  const { image, placeholder, save } = parts(figure);
  figure.removeAttribute("aria-busy");
  image.onerror = () => clear(figure, "No preview of this file");
  image.src = url;
  image.alt = alt;
  image.hidden = false;
  placeholder.hidden = true;
  if (!save) return;
  save.hidden = false;
  save.href = url;
  save.download = fileName;
}

/** Removes the picture. */
export function clear(figure, text = "") {
  const { image, placeholder, save } = parts(figure);
  figure.removeAttribute("aria-busy");
  image.hidden = true;
  image.onerror = null;
  image.removeAttribute("src");
  placeholder.hidden = false;
  placeholder.textContent = text;
  if (save) save.hidden = true;
}

/** Shows that a picture is being generated. */
export function setBusy(figure) {
  clear(figure);
  figure.setAttribute("aria-busy", "true");
}

/** Ends the busy state if no picture came. */
export function stopBusy(figure) {
  if (figure.hasAttribute("aria-busy")) clear(figure, "Not drawn");
}

/** The picture that a path generates; the figure says which step it is at. */
export async function draw(figure, path, body, context) {
  for await (const event of events(path, { body: { ...body, stream: true }, ...context })) {
    if (event.image) return event.image;
    parts(figure).placeholder.textContent = `Step ${event.step} of ${event.steps}`;
  }
  throw new Error("a stream ends with its picture");
}

function parts(figure) {
  return {
    image: figure.querySelector("img"),
    placeholder: figure.querySelector(".placeholder"),
    save: figure.querySelector(".save"),
  };
}

/**
 * Lets a user choose the picture of a figure.
 *
 * @param {HTMLElement} figure with .choose, .scene, a file input and a .frame to drop on
 * @param {Job} job that fetches it
 * @param {(picture, context) => ?Promise} onPicture
 * @returns {(file: File) => void} for files that are dropped or pasted elsewhere on the page
 */
export function imageInput(figure, job, onPicture) {
  const input = figure.querySelector("input[type=file]");
  const acceptFile = (file) => job.run(async (context) => onPicture(await readFile(file), context));

  const choose = () => input.click();
  figure.querySelector(".choose").addEventListener("click", choose);
  figure.querySelector(".frame").addEventListener("click", choose);
  input.addEventListener("change", () => {
    if (input.files.length) acceptFile(input.files[0]);
    input.value = "";
  });
  figure.querySelector(".scene").addEventListener("click", () => {
    job.run(async (context) => onPicture(await randomScene(context), context));
  });
  for (const type of ["dragenter", "dragover"]) {
    figure.addEventListener(type, () => figure.classList.add("over"));
  }
  for (const type of ["dragleave", "drop"]) {
    figure.addEventListener(type, () => figure.classList.remove("over"));
  }
  return acceptFile;
}

async function randomScene(context) {
  const seed = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
  const scene = await call(`v1/vlv/scene?seed=${seed}`, context);
  return { url: scene.image, name: `scene-${scene.seed}.png`, truth: scene.caption };
}
