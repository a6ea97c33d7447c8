// The verdicts on a caption: its sentences with marks, and what the marks mean.

import { asSentence } from "./messages.js";

/**
 * @param {string} caption
 * @param {{sentences: object[]}} verdict of /v1/vlv/verify
 * @returns {(string | Element)[]} the caption, with the sentences marked that are not supported
 */
export function markedSentences(caption, verdict) {
  const characters = [...caption]; // the server counts characters, not UTF-16 units
  const text = (start, end) => characters.slice(start, end).join("");
  const nodes = [];
  let written = 0;
  for (const sentence of verdict.sentences.map(withVerdict)) {
    const { start, end } = sentence;
    nodes.push(text(written, start), marked(text(start, end), sentence));
    written = end;
  }
  return [...nodes, text(written)];
}

// Results that an earlier version stored in this browser have only `supported`.
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

function mark(text, kind, note, title) {
  const element = document.createElement("mark");
  const hiddenNote = document.createElement("span");
  element.className = kind;
  if (title) element.title = title;
  hiddenNote.className = "visually-hidden";
  hiddenNote.textContent = ` (${note})`;
  element.append(text, hiddenNote);
  return element;
}

/** What the marks of a caption mean. */
export function verdictSummary(verdict) {
  const sentences = verdict.sentences.map(withVerdict);
  const rate = verdict.false_alarm_rate;
  const count = (verdict) => sentences.filter((one) => one.verdict === verdict).length;
  const unsupported = count("unsupported");
  const unjudged = count("cannot_judge");
  if (unjudged === sentences.length) return `Not checked: ${reasons(sentences)}`;
  const notes = [];
  if (unsupported) {
    notes.push(`Underlined: the picture does not support the sentence. About ${percent(rate)} of true sentences are underlined too.`);
  } else {
    notes.push(unjudged ? "The picture supports every sentence that could be checked." : "The picture supports every sentence.");
  }
  if (unjudged) notes.push(`Dashed: cannot be judged. ${reasons(sentences)}`);
  return notes.join(" ");
}

function reasons(sentences) {
  const given = sentences.filter((one) => one.verdict === "cannot_judge").map((one) => one.reason ?? "cannot judge");
  return [...new Set(given)].map(asSentence).join(" ");
}

function percent(share) {
  return `${Math.round(share * 100)}%`;
}
