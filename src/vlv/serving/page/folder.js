// Many pictures at once: their captions, which can be edited, and a zip file of all of them.

import { call } from "./api.js";
import { Job } from "./job.js";
import { KeyMissing } from "./key.js";
import { errorMessage } from "./messages.js";
import { InvalidPicture, readFile, save, stem } from "./picture.js";
import * as settings from "./settings.js";
import { markedSentences, verdictSummary } from "./verdicts.js";
import { zipOf } from "./zip.js";

// The server writes several captions in one batch.
const AT_ONCE = 4;
const panel = document.querySelector("#folder");
const list = panel.querySelector("ul");
const saveButton = panel.querySelector("#save-captions");
const template = panel.querySelector("template");
const job = new Job(panel);

let info;
let rows = []; // {file, name, item, text}

/**
 * @param {object} modelInfo the server's /v1/vlv/info
 * @returns {(pictures: {file: File, path: string}[] | Promise) => void} captions these pictures
 *   instead of those before
 */
export function start(modelInfo) {
  info = modelInfo;
  saveButton.addEventListener("click", saveAll);
  return (pictures) => {
    panel.hidden = false;
    job.run(async (context) => run(await pictures, context));
  };
}

async function run(pictures, context) {
  if (!settings.validate()) return;
  const names = uniqueNames(pictures);
  rows = pictures.map((one, index) => addRow(one, names[index]));
  list.replaceChildren(...rows.map((row) => row.item));
  saveButton.disabled = true;
  if (!rows.length) throw new InvalidPicture("no-pictures");
  let done = 0;
  const waiting = [...rows];
  const work = async () => {
    for (let row = waiting.shift(); row; row = waiting.shift()) {
      await describe(row, context);
      done += 1;
      saveButton.disabled = rows.every((one) => one.text.disabled);
      context.say(`${done} of ${rows.length} pictures are described.`);
    }
  };
  context.say(`0 of ${rows.length} pictures are described.`);
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

function addRow({ file, path }, name) {
  const item = template.content.firstElementChild.cloneNode(true);
  item.querySelector(".name").textContent = path;
  const image = item.querySelector("img");
  image.onerror = () => image.classList.add("unreadable");
  return { file, name, item, text: item.querySelector("textarea") };
}

async function describe(row, { signal, onWait }) {
  const note = row.item.querySelector(".note");
  try {
    const { url } = await readFile(row.file);
    row.item.querySelector("img").src = url;
    const options = { signal, onWait };
    const answer = await call("v1/vlv/caption", { body: { image: url, ...settings.captionFields() }, ...options });
    row.text.value = answer.caption;
    row.text.disabled = false;
    row.text.setAttribute("aria-label", `Caption of ${row.file.name}`);
    if (answer.out_of_distribution) note.textContent = "Unlike the training pictures: do not rely on the caption.";
    else if (info.can_verify) showVerdict(row, answer.caption, await verdictOn(url, answer.caption, options));
  } catch (error) {
    signal.throwIfAborted();
    // Without a key, every further picture would ask for one.
    if (error instanceof KeyMissing) throw error;
    note.textContent = errorMessage(error);
  }
}

async function verdictOn(image, caption, options) {
  return call("v1/vlv/verify", { body: { image, caption }, ...options });
}

// The marks are of the caption as it was written: an edit hides them.
function showVerdict({ item, text }, caption, verdict) {
  const marks = item.querySelector(".marks");
  const note = item.querySelector(".note");
  marks.replaceChildren(...markedSentences(caption, verdict));
  note.textContent = verdictSummary(verdict);
  const edited = () => {
    marks.hidden = text.value !== caption || !marks.querySelector("mark");
    note.hidden = text.value !== caption;
  };
  text.addEventListener("input", edited);
  edited();
}

function saveAll() {
  const files = rows.filter((row) => !row.text.disabled).map((row) => ({ name: `${row.name}.txt`, text: `${row.text.value.trim()}\n` }));
  save("captions.zip", zipOf(files), "application/zip");
}

// Files that were chosen in several folders may have the same name.
function uniqueNames(pictures) {
  const used = new Set();
  return pictures.map(({ path }) => {
    let name = stem(path);
    for (let number = 2; used.has(name); number++) name = `${stem(path)}-${number}`;
    used.add(name);
    return name;
  });
}
