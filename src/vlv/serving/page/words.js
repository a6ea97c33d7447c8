// What went wrong, in plain words.

import { ServerError } from "./api.js";
import { KeyMissing } from "./key.js";
import { NotAPicture } from "./picture.js";

const REFUSED = {
  empty: "This file is empty. Choose another picture.",
  truncated: "This picture is cut off: its data end early. Save or copy it again, then try once more.",
  corrupt: "This picture is damaged and cannot be read. Choose another one.",
  "unknown-format": "This file is not a picture that can be read. Use JPEG, PNG, WebP or GIF.",
  "too-many-pixels": "This picture has too many pixels. Make it smaller, then try again.",
  "too-large-file": "This file is too large. Make the picture smaller, then try again.",
};

const STATUS = {
  0: "The server does not answer. It may be restarting, or the picture may be larger than it takes.",
  413: REFUSED["too-large-file"],
  502: "The server does not answer. It may be restarting.",
  503: "The server is not ready: it is starting or about to stop.",
  500: "The server failed on this one. Its log says why.",
  504: "This took longer than the server allows. Try fewer steps, fewer beams or a shorter caption.",
};

/** A sentence or two for a person, about anything thrown on the way. */
export function inWords(error) {
  if (error instanceof KeyMissing) return "The server needs an API key.";
  if (error instanceof NotAPicture) return REFUSED[error.code];
  if (!(error instanceof ServerError)) {
    console.error(error);
    return "Something went wrong in this page itself. Reload it and try again.";
  }
  return REFUSED[error.code] ?? STATUS[error.status] ?? asSentence(error.message);
}

/** What a wait is for. */
export function waitingFor(status) {
  return status === 429 ? "The server's queue is full." : "The server is not ready yet.";
}

/** The words with a capital and a full stop. */
export function asSentence(message) {
  const text = message.trim() || "The server gave no reason.";
  const upper = text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(upper) ? upper : `${upper}.`;
}
