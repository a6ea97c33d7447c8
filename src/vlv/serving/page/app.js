// Puts the page together: tabs, pictures that are dropped or pasted anywhere, keys.

import { call } from "./api.js";
import * as caption from "./caption.js";
import * as compose from "./compose.js";
import * as history from "./history.js";
import { Job } from "./job.js";

const tabs = [...document.querySelectorAll("[role=tab]")];
const panels = tabs.map((tab) => document.getElementById(tab.getAttribute("aria-controls")));
const settings = document.querySelector("#settings");
let handlers = {};

function choose(name, focus = false) {
  tabs.forEach((tab, index) => {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    panels[index].hidden = !chosen;
    if (chosen && focus) tab.focus();
  });
  settings.dataset.tab = name;
  for (const field of settings.querySelectorAll(".of-caption input")) field.disabled = name !== "caption";
}

function chosen() {
  return tabs.find((tab) => tab.getAttribute("aria-selected") === "true").id.replace("tab-", "");
}

function startTabs() {
  for (const tab of tabs) {
    tab.addEventListener("click", () => choose(tab.id.replace("tab-", "")));
    tab.addEventListener("keydown", (event) => {
      if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
      choose(chosen() === "caption" ? "compose" : "caption", true);
    });
  }
  choose("caption");
}

// A picture may be dropped or pasted anywhere.
function startGifts() {
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    give(event.dataTransfer.files[0], event.target);
  });
  document.addEventListener("paste", (event) => give(event.clipboardData.files[0], null));
}

function give(file, target) {
  if (file) handlers[chosen()]?.take(file, target);
}

async function start(context) {
  const info = await call("v1/vlv/info", context);
  document.querySelector("#model").textContent = info.model;
  document.querySelector("#tab-compose").hidden = !info.can_draw;
  settings.dataset.draws = info.can_draw;
  const remember = await history.start((entry) => {
    choose(entry.tab);
    handlers[entry.tab].open(entry);
    scrollTo({ top: 0 });
  });
  handlers = { caption: caption.start(info, remember), compose: compose.start(info, remember) };
  document.body.classList.add("ready");
}

startTabs();
startGifts();
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") document.querySelector(".cancel:not([hidden])")?.click();
});
new Job(panels[0]).run(start);
