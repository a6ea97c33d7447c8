// The last results, in this browser's IndexedDB alone.

import { shrunk } from "./picture.js";

const KEPT = 16;
const THUMBNAIL = 96;
const section = document.querySelector("#history");
let database = null;

/**
 * Lists what is kept.
 *
 * @param {(entry: object) => void} open hears which entry a person wants back
 * @returns {Promise<(entry: {title: string, cover: string}) => Promise>} keeps one more
 */
export async function start(open) {
  try {
    database = await opened();
  } catch {
    return async () => {}; // private windows may keep nothing
  }
  document.querySelector("#clear-history").addEventListener("click", async () => {
    await done(store("readwrite").clear());
    await list(open);
    document.querySelector("#main").focus({ preventScroll: true });
  });
  await list(open);
  return async (entry) => {
    const { cover, ...rest } = entry;
    const thumbnail = await shrunk(cover, THUMBNAIL);
    if (!thumbnail) return;
    await done(store("readwrite").add({ ...rest, thumbnail }));
    await prune();
    await list(open);
  };
}

async function prune() {
  const ids = await done(store("readonly").getAllKeys());
  for (const id of ids.slice(0, -KEPT)) await done(store("readwrite").delete(id));
}

async function list(open) {
  const entries = (await done(store("readonly").getAll())).reverse();
  section.hidden = entries.length === 0;
  section.querySelector("ul").replaceChildren(...entries.map((entry) => item(entry, open)));
}

function item(entry, open) {
  const image = document.createElement("img");
  image.src = entry.thumbnail;
  image.alt = "";
  const button = document.createElement("button");
  button.type = "button";
  button.title = entry.title;
  button.setAttribute("aria-label", entry.title);
  button.append(image);
  button.addEventListener("click", () => open(entry));
  const place = document.createElement("li");
  place.append(button);
  return place;
}

function opened() {
  const request = indexedDB.open("vlv", 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("results", { autoIncrement: true });
  };
  return done(request);
}

function store(mode) {
  return database.transaction("results", mode).objectStore("results");
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
