// The Caption tab: a picture, its caption as it is written, and the two pictures drawn from it.

import { call, events } from "./api.js";
import { safetensors } from "./embeddings.js";
import { clear, expect, intake, settle, show } from "./figure.js";
import { Job } from "./job.js";
import { save, shrunk, stem } from "./picture.js";
import * as settings from "./settings.js";
import { asSentence } from "./words.js";

const LARGEST_KEPT = 768;
const panel = document.querySelector("#caption-panel");
const part = (name) => panel.querySelector(name);
const original = part("#original");
const fromEmbeddings = part("#from-embeddings");
const fromCaption = part("#from-caption");
const words = part("#caption");

let info;
let keep;
let result = null; // {picture, caption, finish_reason, in_distribution, encoded, embeddings, drawn, verdict}

const job = new Job(panel, {
  onEnd() {
    settle(fromEmbeddings);
    settle(fromCaption);
    words.removeAttribute("aria-busy");
    part(".again").hidden = result === null;
  },
});

/**
 * @param {object} about the server's /v1/vlv/info
 * @param {(entry: object) => Promise} remember
 * @returns {{take: (file: File) => void, open: (entry: object) => void}}
 */
export function start(about, remember) {
  info = about;
  keep = remember;
  fromEmbeddings.hidden = fromCaption.hidden = !info.can_draw;
  const take = intake(original, job, (picture, context) => work(picture, context));
  part(".again").addEventListener("click", () => {
    job.run((context) => work(result.picture, context));
  });
  part("#copy").addEventListener("click", copyCaption);
  part("#save-caption").addEventListener("click", () => {
    save(`${stem(result.picture.name)}.txt`, `${result.caption}\n`, "text/plain");
  });
  part("#save-embeddings").addEventListener("click", saveEmbeddings);
  return { take, open };
}

async function work(picture, context) {
  if (!settings.usable()) return;
  begin(picture);
  await describe(context);
  const tasks = [encode(context)];
  if (info.can_verify) tasks.push(verify(context));
  if (info.can_draw) {
    expect(fromEmbeddings);
    expect(fromCaption);
    tasks.push(tasks[0].then(() => drawFromEmbeddings(context)), drawFromCaption(context));
    context.say("Drawing…");
  }
  const ends = await Promise.allSettled(tasks);
  context.signal.throwIfAborted();
  await remember();
  const failed = ends.find((end) => end.status === "rejected");
  if (failed) throw failed.reason;
}

function begin(picture) {
  result = { picture };
  panel.removeAttribute("data-empty");
  original.querySelector(".choose").textContent = "Choose another";
  original.querySelector(".choose").classList.remove("primary");
  show(original, picture.url, `Original: ${picture.name}`);
  clear(fromEmbeddings);
  clear(fromCaption);
  words.replaceChildren();
  for (const name of ["#cut", "#out-of-distribution", "#marks", "#caption-actions", "#save-embeddings"]) {
    part(name).hidden = true;
  }
  part("#truth").hidden = !picture.truth;
  part("#truth").open = false;
  part("#truth p").textContent = picture.truth ?? "";
}

async function describe(context) {
  context.say("Describing the picture…");
  words.setAttribute("aria-busy", "true");
  const body = { image: result.picture.url, ...settings.ofCaptions() };
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
  words.append(word);
}

function finishCaption() {
  words.textContent = result.caption;
  words.removeAttribute("aria-busy");
  part("#cut").hidden = result.finish_reason !== "length";
  part("#out-of-distribution").hidden = result.in_distribution !== false;
  part("#caption-actions").hidden = false;
}

async function verify(context) {
  const body = { image: result.picture.url, caption: result.caption };
  result.verdict = await call("v1/vlv/verify", { body, ...context });
  markSentences();
}

function markSentences() {
  const { false_alarm_rate } = result.verdict;
  const sentences = result.verdict.sentences.map(withVerdict);
  const letters = [...result.caption]; // the server counts characters, not UTF-16 units
  const text = (start, end) => letters.slice(start, end).join("");
  let written = 0;
  words.replaceChildren();
  for (const sentence of sentences) {
    const { start, end } = sentence;
    words.append(text(written, start), marked(text(start, end), sentence));
    written = end;
  }
  words.append(text(written));
  part("#marks").hidden = false;
  part("#marks").textContent = ofMarks(sentences, false_alarm_rate);
}

// Results that this browser kept from an earlier version say `supported` alone.
function withVerdict(sentence) {
  return { verdict: sentence.supported ? "supported" : "unsupported", ...sentence };
}

function marked(text, { verdict, better, reason }) {
  if (verdict === "supported") return text;
  if (verdict === "unsupported") {
    return mark(text, "unsupported", "the picture does not support this", better && `The picture fits better with ${better}`);
  }
  return mark(text, "cannot-judge", reason ? `cannot judge: ${reason}` : "cannot judge", reason);
}

function mark(text, kind, said, title) {
  const element = document.createElement("mark");
  const aside = document.createElement("span");
  element.className = kind;
  if (title) element.title = title;
  aside.className = "unseen";
  aside.textContent = ` (${said})`;
  element.append(text, aside);
  return element;
}

function ofMarks(sentences, rate) {
  const count = (verdict) => sentences.filter((one) => one.verdict === verdict).length;
  const unsupported = count("unsupported");
  const unjudged = count("cannot_judge");
  if (unjudged === sentences.length) return `Not checked: ${reasons(sentences)}`;
  const notes = [];
  if (unsupported) {
    notes.push(`Underlined: the picture does not support it. Of true sentences, about ${percent(rate)} are underlined too.`);
  } else {
    notes.push(unjudged ? "The picture supports every sentence that could be checked." : "The picture supports every sentence.");
  }
  if (unjudged) notes.push(`Dashed: cannot judge. ${reasons(sentences)}`);
  return notes.join(" ");
}

function reasons(sentences) {
  const given = sentences.filter((one) => one.verdict === "cannot_judge").map((one) => one.reason ?? "cannot judge");
  return [...new Set(given)].map(asSentence).join(" ");
}

function percent(share) {
  return `${Math.round(share * 100)}%`;
}

async function encode(context) {
  result.encoded = await call("v1/vlv/encode", { body: { image: result.picture.url }, ...context });
  part("#save-embeddings").hidden = false;
}

async function drawFromEmbeddings(context) {
  const body = { z: result.encoded, ...settings.ofDrawing() };
  result.embeddings = (await call("v1/vlv/reconstruct", { body, ...context })).image;
  showDrawn();
}

async function drawFromCaption(context) {
  const body = { text: result.caption, ...settings.ofDrawing() };
  result.drawn = (await call("v1/vlv/reconstruct", { body, ...context })).image;
  showDrawn();
}

function showDrawn() {
  const name = stem(result.picture.name);
  if (result.embeddings) {
    const alt = "The picture drawn again from its caption embeddings";
    show(fromEmbeddings, result.embeddings, alt, `${name}-from-embeddings.png`);
  }
  if (result.drawn) {
    show(fromCaption, result.drawn, `Drawn from the caption: ${result.caption}`, `${name}-from-caption.png`);
  }
}

async function copyCaption() {
  await navigator.clipboard.writeText(result.caption);
  part("[role=status]").textContent = "Caption copied.";
}

function saveEmbeddings() {
  const { name } = result.picture;
  const file = safetensors(result.encoded, name, info.model);
  save(`${stem(name)}.safetensors`, file, "application/octet-stream");
}

async function remember() {
  const { picture } = result;
  const large = picture.url.length > 1_000_000;
  const url = large ? await shrunk(picture.url, LARGEST_KEPT) : picture.url;
  if (!url) return;
  await keep({ tab: "caption", title: result.caption, cover: url, result: { ...result, picture: { ...picture, url } } });
}

function open(entry) {
  job.cancel();
  begin(entry.result.picture);
  result = entry.result;
  finishCaption();
  part("#save-embeddings").hidden = !result.encoded;
  if (result.verdict) markSentences();
  showDrawn();
  part(".again").hidden = false;
}
