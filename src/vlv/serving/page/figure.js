// A framed picture, and where pictures come from: files, the clipboard, drawn scenes.

import { call } from "./api.js";
import { ofFile } from "./picture.js";

/** Shows a picture; with a file name it can be saved. */
export function show(figure, url, alt, fileName) {
  const { image, blank, save } = parts(figure);
  figure.removeAttribute("aria-busy");
  image.onerror = () => clear(figure, "No preview of this file");
  image.src = url;
  image.alt = alt;
  image.hidden = false;
  blank.hidden = true;
  if (!save) return;
  save.hidden = false;
  save.href = url;
  save.download = fileName;
}

/** Takes the picture away. */
export function clear(figure, text = "") {
  const { image, blank, save } = parts(figure);
  figure.removeAttribute("aria-busy");
  image.hidden = true;
  image.onerror = null;
  image.removeAttribute("src");
  blank.hidden = false;
  blank.textContent = text;
  if (save) save.hidden = true;
}

/** Says that a picture is to come. */
export function expect(figure) {
  clear(figure);
  figure.setAttribute("aria-busy", "true");
}

/** Stops saying so. */
export function settle(figure) {
  if (figure.hasAttribute("aria-busy")) clear(figure, "Not drawn");
}

function parts(figure) {
  return {
    image: figure.querySelector("img"),
    blank: figure.querySelector(".blank"),
    save: figure.querySelector(".save"),
  };
}

/**
 * Lets a person give a picture to a figure.
 *
 * @param {HTMLElement} figure with .choose, .scene, a file input and a .frame to drop on
 * @param {Job} job that fetches it
 * @param {(picture, context) => ?Promise} take
 * @returns {(file: File) => void} for files that come from elsewhere
 */
export function intake(figure, job, take) {
  const input = figure.querySelector("input[type=file]");
  const takeFile = (file) => job.run(async (context) => take(await ofFile(file), context));

  const choose = () => input.click();
  figure.querySelector(".choose").addEventListener("click", choose);
  figure.querySelector(".frame").addEventListener("click", choose);
  input.addEventListener("change", () => {
    if (input.files.length) takeFile(input.files[0]);
    input.value = "";
  });
  figure.querySelector(".scene").addEventListener("click", () => {
    job.run(async (context) => take(await randomScene(context), context));
  });
  for (const type of ["dragenter", "dragover"]) {
    figure.addEventListener(type, () => figure.classList.add("over"));
  }
  for (const type of ["dragleave", "drop"]) {
    figure.addEventListener(type, () => figure.classList.remove("over"));
  }
  return takeFile;
}

async function randomScene(context) {
  const seed = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
  const scene = await call(`v1/vlv/scene?seed=${seed}`, context);
  return { url: scene.image, name: `scene-${scene.seed}.png`, truth: scene.caption };
}
