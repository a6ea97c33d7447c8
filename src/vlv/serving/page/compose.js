// The Compose tab: one picture from embeddings of two.

import { call } from "./api.js";
import { expect, intake, settle, show } from "./figure.js";
import { Job } from "./job.js";
import { shrunk, stem } from "./picture.js";
import * as settings from "./settings.js";

const LARGEST_KEPT = 768;
const panel = document.querySelector("#compose-panel");
const composed = panel.querySelector("#composed");
const button = panel.querySelector(".compose");
const order = panel.querySelector(".order select");
const sides = ["first", "second"].map((name) => {
  const figure = panel.querySelector(`#${name}`);
  const slider = figure.querySelector("input[type=range]");
  return { name, figure, slider, count: figure.querySelector(".share strong"), picture: null };
});

let limit;
let keep;

const job = new Job(panel, {
  onEnd() {
    settle(composed);
    button.disabled = !sides.every((side) => side.picture);
  },
});

/**
 * @param {{queries: number, max_keep: number}} info
 * @param {(entry: object) => Promise} remember
 * @returns {{take: (file: File, target: Element) => void, open: (entry: object) => void}}
 */
export function start(info, remember) {
  limit = info.max_keep;
  keep = remember;
  const most = Math.min(info.queries, limit);
  const takes = sides.map((side) => {
    side.slider.max = most;
    side.slider.addEventListener("input", () => share(side));
    return intake(side.figure, job, (picture) => place(side, picture));
  });
  setShares([Math.ceil(limit / 2), Math.floor(limit / 2)].map((count) => Math.min(count, most)));
  button.addEventListener("click", () => job.run(work));
  return { take: (file, target) => takes[sideFor(target)](file), open };
}

// The side that was dropped on, else the one still empty, else the first.
function sideFor(target) {
  const under = sides.findIndex((side) => side.figure.contains(target));
  const empty = sides.findIndex((side) => !side.picture);
  return Math.max(0, under >= 0 ? under : empty);
}

function place(side, picture) {
  side.picture = picture;
  show(side.figure, picture.url, `The ${side.name} picture: ${picture.name}`);
}

// The side that was moved keeps its share; the other gives way.
function share(moved) {
  setShares(sides.map((side) => (side === moved ? kept(side) : Math.min(kept(side), limit - kept(moved)))));
}

function setShares(counts) {
  sides.forEach((side, index) => {
    side.slider.value = counts[index];
    side.count.textContent = counts[index];
  });
  panel.querySelector("#sum").textContent = `${counts[0]} + ${counts[1]} of at most ${limit} embeddings`;
}

function kept(side) {
  return Number(side.slider.value);
}

async function work(context) {
  if (!settings.usable()) return;
  context.say("Drawing…");
  expect(composed);
  const [a, b] = sides;
  const body = {
    a: { image: a.picture.url },
    b: { image: b.picture.url },
    keep_a: kept(a),
    keep_b: kept(b),
    order: order.value,
    ...settings.ofDrawing(),
  };
  const { image } = await call("v1/vlv/compose", { body, ...context });
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
    const url = picture.url.length > 1_000_000 ? await shrunk(picture.url, LARGEST_KEPT) : picture.url;
    if (!url) return;
    pictures.push({ ...picture, url });
  }
  const title = `Composition of ${pictures[0].name} and ${pictures[1].name}`;
  await keep({ tab: "compose", title, cover: image, pictures, shares: sides.map(kept), order: order.value, image });
}

function open(entry) {
  job.cancel();
  sides.forEach((side, index) => place(side, entry.pictures[index]));
  setShares(entry.shares);
  order.value = entry.order ?? "leading"; // kept before there was a choice
  showComposed(entry.image);
  button.disabled = false;
}
