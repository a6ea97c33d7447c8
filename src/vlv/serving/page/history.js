// The latest results, stored in this browser's IndexedDB only.

import { downscaled } from "./picture.js";

const MAX_ENTRIES = 16;
const THUMBNAIL_SIDE = 96;
const section = document.querySelector("#history");
let database = null;

/**
 * Lists the stored results.
 *
 * @param {(entry: object) => void} open called with the entry that the user selects
 * @returns {Promise<(entry: {title: string, cover: string}) => Promise>} adds an entry
 */
export async function start(open) {
  try {
    database = await openDatabase();
  } catch {
    return async () => {}; // private windows may store nothing
  }
  document.querySelector("#clear-history").addEventListener("click", async () => {
    await result(store("readwrite").clear());
    await list(open);
    document.querySelector("#main").focus({ preventScroll: true });
  });
  await list(open);
  return async (entry) => {
    try {
      await add(entry);
      await list(open);
    } catch {
      // The browser has no room for it. The result itself is on the page.
    }
  };
}

async function add({ cover, ...rest }) {
  const thumbnail = await downscaled(cover, THUMBNAIL_SIDE);
  if (!thumbnail) return;
  await result(store("readwrite").add({ ...rest, thumbnail }));
  await prune();
}

async function prune() {
  const ids = await result(store("readonly").getAllKeys());
  for (const id of ids.slice(0, -MAX_ENTRIES)) await result(store("readwrite").delete(id));
}

async function list(open) {
  const entries = (await result(store("readonly").getAll())).reverse();
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
  const listItem = document.createElement("li");
  listItem.append(button);
  return listItem;
}

function openDatabase() {
  const request = indexedDB.open("vlv", 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("results", { autoIncrement: true });
  };
  return result(request);
}

function store(mode) {
  return database.transaction("results", mode).objectStore("results");
}

function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
