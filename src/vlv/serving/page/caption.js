// The Caption tab: a picture, its caption as it is written, and the two pictures generated from it.

import { call, events } from "./api.js";
import { copyText } from "./clipboard.js";
import { safetensors } from "./embeddings.js";
import { clear, draw, imageInput, setBusy, show, stopBusy } from "./figure.js";
import { Job } from "./job.js";
import { downscaled, save, stem } from "./picture.js";
import * as settings from "./settings.js";
import { markedSentences, verdictSummary } from "./verdicts.js";

const MAX_STORED_SIDE = 768;
const panel = document.querySelector("#caption-panel");
const find = (selector) => panel.querySelector(selector);
const original = find("#original");
const fromEmbeddings = find("#from-embeddings");
const fromCaption = find("#from-caption");
const captionText = find("#caption");

let info;
let addToHistory;
// {picture, caption, finish_reason, out_of_distribution, encoded, embeddings, late, drawn, verdict}; late: whether the
// picture from the embeddings is one of the caption too
let result = null;

const job = new Job(panel, {
  onEnd() {
    stopBusy(fromEmbeddings);
    stopBusy(fromCaption);
    captionText.removeAttribute("aria-busy");
    find(".again").hidden = result === null;
  },
});

/**
 * @param {object} modelInfo the server's /v1/vlv/info
 * @param {(entry: object) => Promise} remember adds an entry to the history
 * @returns {{accept: (file: File) => void, open: (entry: object) => void}}
 */
export function start(modelInfo, remember) {
  info = modelInfo;
  addToHistory = remember;
  find("#knows").textContent = info.knows;
  fromEmbeddings.hidden = fromCaption.hidden = !info.can_draw;
  const accept = imageInput(original, job, (picture, context) => run(picture, context));
  find(".again").addEventListener("click", () => {
    job.run((context) => run(result.picture, context));
  });
  find("#copy").addEventListener("click", copyCaption);
  find("#save-caption").addEventListener("click", () => {
    save(`${stem(result.picture.name)}.txt`, `${result.caption}\n`, "text/plain");
  });
  find("#save-embeddings").addEventListener("click", saveEmbeddings);
  return { accept, open };
}

async function run(picture, context) {
  if (!settings.validate()) return;
  begin(picture);
  await describe(context);
  const tasks = [encode(context)];
  if (info.can_verify) tasks.push(verify(context));
  if (info.can_draw) {
    setBusy(fromEmbeddings);
    setBusy(fromCaption);
    tasks.push(tasks[0].then(() => drawFromEmbeddings(context)), drawFromCaption(context));
    context.say("Drawing…");
  }
  const outcomes = await Promise.allSettled(tasks);
  context.signal.throwIfAborted();
  await remember();
  const failed = outcomes.find((one) => one.status === "rejected");
  if (failed) throw failed.reason;
}

function begin(picture) {
  result = { picture, late: settings.lateCaption() };
  panel.removeAttribute("data-empty");
  original.querySelector(".choose").textContent = "Choose another";
  original.querySelector(".choose").classList.remove("primary");
  show(original, picture.url, `Original: ${picture.name}`);
  clear(fromEmbeddings);
  clear(fromCaption);
  showDrawn();
  captionText.replaceChildren();
  for (const name of ["#cut", "#out-of-distribution", "#verdicts", "#caption-actions", "#save-embeddings"]) {
    find(name).hidden = true;
  }
  find("#truth").hidden = !picture.truth;
  find("#truth").open = false;
  find("#truth p").textContent = picture.truth ?? "";
}

async function describe(context) {
  context.say("Describing the picture…");
  captionText.setAttribute("aria-busy", "true");
  const body = { image: result.picture.url, ...settings.captionFields() };
  const answer = body.num_beams > 1 ? await call("v1/vlv/caption", { body, ...context }) : await streamed(body, context);
  Object.assign(result, answer);
  finishCaption();
}

async function streamed(body, context) {
  let answer = null;
  for await (const event of events("v1/vlv/caption", { body: { ...body, stream: true }, ...context })) {
    if (event.caption !== undefined) answer = event;
    else appendWord(event.text);
  }
  return answer;
}

function appendWord(text) {
  const word = document.createElement("span");
  word.textContent = text;
  captionText.append(word);
}

function finishCaption() {
  captionText.textContent = result.caption;
  captionText.removeAttribute("aria-busy");
  find("#cut").hidden = result.finish_reason !== "length";
  find("#out-of-distribution").hidden = !result.out_of_distribution;
  find("#caption-actions").hidden = false;
}

async function verify(context) {
  const body = { image: result.picture.url, caption: result.caption };
  result.verdict = await call("v1/vlv/verify", { body, ...context });
  markSentences();
}

function markSentences() {
  captionText.replaceChildren(...markedSentences(result.caption, result.verdict));
  find("#verdicts").hidden = false;
  find("#verdicts").textContent = verdictSummary(result.verdict);
}

async function encode(context) {
  result.encoded = await call("v1/vlv/encode", { body: { image: result.picture.url }, ...context });
  find("#save-embeddings").hidden = false;
}

async function drawFromEmbeddings(context) {
  const body = { z: result.encoded, ...settings.samplingFields() };
  if (result.late) body.caption = result.caption;
  result.embeddings = await draw(fromEmbeddings, "v1/vlv/reconstruct", body, context);
  showDrawn();
}

async function drawFromCaption(context) {
  const body = { text: result.caption, ...settings.samplingFields() };
  result.drawn = await draw(fromCaption, "v1/vlv/reconstruct", body, context);
  showDrawn();
}

function showDrawn() {
  const name = stem(result.picture.name);
  const source = result.late ? "embeddings and caption" : "embeddings";
  fromEmbeddings.querySelector("figcaption").textContent = `From the ${source}`;
  if (result.embeddings) {
    const alt = result.late ? `Generated from the embeddings, then from the caption: ${result.caption}` : "The picture generated from the caption embeddings";
    show(fromEmbeddings, result.embeddings, alt, `${name}-from-${source.replaceAll(" ", "-")}.png`);
  }
  if (result.drawn) {
    show(fromCaption, result.drawn, `Generated from the caption: ${result.caption}`, `${name}-from-caption.png`);
  }
}

async function copyCaption() {
  const copied = await copyText(result.caption);
  find("[role=status]").textContent = copied ? "Caption copied." : "This browser copies nothing here. Select the caption and copy it by hand.";
}

function saveEmbeddings() {
  const { name } = result.picture;
  const file = safetensors(result.encoded, name, info.model);
  save(`${stem(name)}.safetensors`, file, "application/octet-stream");
}

async function remember() {
  const { picture } = result;
  const large = picture.url.length > 1_000_000;
  const url = large ? await downscaled(picture.url, MAX_STORED_SIDE) : picture.url;
  if (!url) return;
  await addToHistory({ tab: "caption", title: result.caption, cover: url, result: { ...result, picture: { ...picture, url } } });
}

function open(entry) {
  job.cancel();
  begin(entry.result.picture);
  result = entry.result;
  finishCaption();
  find("#save-embeddings").hidden = !result.encoded;
  if (result.verdict) markSentences();
  showDrawn();
  find(".again").hidden = false;
}
