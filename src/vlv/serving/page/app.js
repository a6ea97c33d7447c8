// The page as a whole: tabs, dropped and pasted pictures, keyboard.

import { call } from "./api.js";
import * as caption from "./caption.js";
import * as compose from "./compose.js";
import { chosen, droppedFolders } from "./dropped.js";
import * as folder from "./folder.js";
import * as history from "./history.js";
import { Job } from "./job.js";

const tabs = [...document.querySelectorAll("[role=tab]")];
const panels = tabs.map((tab) => document.getElementById(tab.getAttribute("aria-controls")));
const settings = document.querySelector("#settings");
let handlers = {};
let acceptMany = null;

function selectTab(name, focus = false) {
  tabs.forEach((tab, index) => {
    const selected = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", selected);
    tab.tabIndex = selected ? 0 : -1;
    panels[index].hidden = !selected;
    if (selected && focus) tab.focus();
  });
  settings.dataset.tab = name;
  for (const field of settings.querySelectorAll(".caption-setting input")) field.disabled = name !== "caption";
}

function selectedTab() {
  return tabs.find((tab) => tab.getAttribute("aria-selected") === "true").id.replace("tab-", "");
}

function startTabs() {
  for (const tab of tabs) {
    tab.addEventListener("click", () => selectTab(tab.id.replace("tab-", "")));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      const shown = tabs.filter((one) => !one.hidden);
      const next = shown.at((shown.indexOf(tab) + step) % shown.length);
      selectTab(next.id.replace("tab-", ""), true);
    });
  }
  selectTab("caption");
}

// A picture may be dropped or pasted anywhere.
function acceptDroppedAndPasted() {
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    const folders = selectedTab() === "caption" ? droppedFolders(event.dataTransfer) : null;
    if (folders) acceptMany?.(folders);
    else acceptFiles(event.dataTransfer.files, event.target);
  });
  document.addEventListener("paste", (event) => acceptFiles(event.clipboardData.files, null));
}

// Several files are a folder to describe.
function acceptFiles(files, target) {
  if (files.length > 1 && selectedTab() === "caption") acceptMany?.(chosen(files));
  else if (files.length) handlers[selectedTab()]?.accept(files[0], target);
}

async function start(context) {
  const info = await call("v1/vlv/info", context);
  document.querySelector("#model").textContent = info.model;
  document.querySelector("#tab-compose").hidden = !info.can_draw;
  settings.dataset.canDraw = info.can_draw;
  settings.dataset.lateCaptions = info.takes_late_captions;
  const remember = await history.start((entry) => {
    selectTab(entry.tab);
    handlers[entry.tab].open(entry);
    scrollTo({ top: 0 });
  });
  handlers = { caption: caption.start(info, remember), compose: compose.start(info, remember) };
  acceptMany = folder.start(info);
  for (const kind of ["many", "folder"]) {
    const input = document.querySelector(`#${kind}-input`);
    document.querySelector(`#choose-${kind}`).addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      if (input.files.length) acceptMany(chosen(input.files));
      input.value = "";
    });
  }
  document.body.classList.add("ready");
}

// What is seen: work in the other tab goes on, and a dialog has the key for itself.
function cancelByEscape() {
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    const buttons = [...document.querySelectorAll(".cancel")];
    buttons.find((button) => button.getClientRects().length > 0)?.click();
  });
}

startTabs();
acceptDroppedAndPasted();
cancelByEscape();
new Job(panels[0]).run(start);
