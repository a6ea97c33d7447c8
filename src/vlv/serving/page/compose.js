// The Compose tab: one picture from the embeddings of two.

import { draw, imageInput, setBusy, show, stopBusy } from "./figure.js";
import { Job } from "./job.js";
import { downscaled, stem } from "./picture.js";
import * as settings from "./settings.js";

const MAX_STORED_SIDE = 768;
// 70 and 7 of 77: the objects of the first picture on the floor of the second.
const SHARE_OF_SECOND = 1 / 11;
const panel = document.querySelector("#compose-panel");
const composed = panel.querySelector("#composed");
const button = panel.querySelector(".compose");
const order = panel.querySelector(".order select");
const sides = ["first", "second"].map((name) => {
  const figure = panel.querySelector(`#${name}`);
  const slider = figure.querySelector("input[type=range]");
  return { name, figure, slider, count: figure.querySelector(".keep strong"), picture: null };
});

let limit;
let addToHistory;

const job = new Job(panel, {
  onEnd() {
    stopBusy(composed);
    button.disabled = !sides.every((side) => side.picture);
  },
});

/**
 * @param {{queries: number, max_keep: number}} info
 * @param {(entry: object) => Promise} remember adds an entry to the history
 * @returns {{accept: (file: File, target: Element) => void, open: (entry: object) => void}}
 */
export function start(info, remember) {
  limit = info.max_keep;
  addToHistory = remember;
  const max = Math.min(info.queries, limit);
  const inputs = sides.map((side) => {
    side.slider.max = max;
    side.slider.addEventListener("input", () => limitOther(side));
    return imageInput(side.figure, job, (picture) => place(side, picture));
  });
  const last = Math.round(limit * SHARE_OF_SECOND);
  setCounts([limit - last, last].map((count) => Math.min(count, max)));
  button.addEventListener("click", () => job.run(run));
  return { accept: (file, target) => inputs[sideFor(target)](file), open };
}

// The side that a file was dropped on, or the one that is empty, or the first.
function sideFor(target) {
  const hovered = sides.findIndex((side) => side.figure.contains(target));
  const empty = sides.findIndex((side) => !side.picture);
  return Math.max(0, hovered >= 0 ? hovered : empty);
}

function place(side, picture) {
  side.picture = picture;
  show(side.figure, picture.url, `The ${side.name} picture: ${picture.name}`);
}

// The side whose slider moved keeps its count; the other is reduced to fit.
function limitOther(moved) {
  setCounts(sides.map((side) => (side === moved ? kept(side) : Math.min(kept(side), limit - kept(moved)))));
}

function setCounts(counts) {
  sides.forEach((side, index) => {
    side.slider.value = counts[index];
    side.count.textContent = counts[index];
  });
  panel.querySelector("#sum").textContent = `${counts[0]} + ${counts[1]} of at most ${limit} embeddings`;
}

function kept(side) {
  return Number(side.slider.value);
}

async function run(context) {
  if (!settings.validate()) return;
  context.say("Drawing…");
  setBusy(composed);
  const [a, b] = sides;
  const body = {
    a: { image: a.picture.url },
    b: { image: b.picture.url },
    keep_a: kept(a),
    keep_b: kept(b),
    order: order.value,
    ...settings.samplingFields(),
  };
  const image = await draw(composed, "v1/vlv/compose", body, context);
  showComposed(image);
  await remember(image);
}

function showComposed(image) {
  const [a, b] = sides;
  const alt = `Composed of ${kept(a)} embeddings of ${a.picture.name} and ${kept(b)} of ${b.picture.name}`;
  show(composed, image, alt, `${stem(a.picture.name)}-${stem(b.picture.name)}.png`);
}

async function remember(image) {
  const pictures = [];
  for (const { picture } of sides) {
    const url = picture.url.length > 1_000_000 ? await downscaled(picture.url, MAX_STORED_SIDE) : picture.url;
    if (!url) return;
    pictures.push({ ...picture, url });
  }
  const title = `Composition of ${pictures[0].name} and ${pictures[1].name}`;
  await addToHistory({ tab: "compose", title, cover: image, pictures, shares: sides.map(kept), order: order.value, image });
}

function open(entry) {
  job.cancel();
  sides.forEach((side, index) => place(side, entry.pictures[index]));
  setCounts(entry.shares);
  order.value = entry.order ?? "leading"; // entries of earlier versions have no order
  showComposed(entry.image);
  button.disabled = false;
}
