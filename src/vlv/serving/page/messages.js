// Messages for errors and waits.

import { ServerError } from "./api.js";
import { KeyMissing } from "./key.js";
import { InvalidPicture } from "./picture.js";

const IMAGE_ERRORS = {
  "no-pictures": "There are no pictures in this folder. Choose another one.",
  empty: "This file is empty. Choose another picture.",
  truncated: "This picture is cut off: its data end too early. Save or copy it again, then try once more.",
  corrupt: "This picture is damaged and cannot be read. Choose another one.",
  "unknown-format": "This file is not a picture that can be read. Use JPEG, PNG, WebP or GIF.",
  "too-many-pixels": "This picture has too many pixels. Make it smaller, then try again.",
  "too-large-file": "This file is too large. Make the picture smaller, then try again.",
  "too-much-memory": "The server has not enough memory to read this picture. Make it smaller, then try again.",
  "too-slow": "The server took too long to read this picture. Make it smaller, then try again.",
  crashed: "This picture cannot be read. Save it again as JPEG or PNG, or choose another one.",
};

// Where the API's own sentence speaks to a program, or says nothing to do. Streamed answers have
// these codes too, below a status of 200.
const CODE_ERRORS = {
  connection_lost: "The server does not answer. It may be restarting, or the picture may be too large for it.",
  answer_cut: "The connection ended before the answer was complete. Try again.",
  deadline_exceeded: "This took longer than the server allows. Try fewer steps, fewer beams or a shorter caption.",
  draining: "The server stopped before the answer was complete. Wait until it runs again, then try again.",
  body_too_large: IMAGE_ERRORS["too-large-file"],
  slow_request: "The picture took too long to arrive. Make it smaller or check your connection, then try again.",
  worker_died: "The model failed on this picture. Try another one, or fewer steps; the server's log says why.",
  computation_failed: "The model failed on this request. The server's log says why.",
  engine_failed: "The model stopped while it wrote. Try again; if that fails too, the server's log says why.",
  internal_error: "The server failed on this request. Try again; if that fails too, the server's log says why.",
};

// Of answers that are not the API's own: a proxy in front of it gave them.
const PROXY_ERRORS = {
  413: IMAGE_ERRORS["too-large-file"],
  502: "The server does not answer. It may be restarting: wait a moment, then try again.",
  503: "The server is not ready: it is starting or stopping. Wait a moment, then try again.",
  504: CODE_ERRORS.deadline_exceeded,
};

/** A message for the user about any error. */
export function errorMessage(error) {
  if (error instanceof KeyMissing) return "The server needs an API key. Try again, and give one.";
  if (error instanceof InvalidPicture) return IMAGE_ERRORS[error.code];
  if (!(error instanceof ServerError)) {
    console.error(error);
    return "This page failed. Reload it and try again.";
  }
  if (error.code) return IMAGE_ERRORS[error.code] ?? CODE_ERRORS[error.code] ?? asSentence(error.message);
  return PROXY_ERRORS[error.status] ?? `Something between this page and the server refused (HTTP ${error.status}). Try again.`;
}

/** A message about a wait for what the server refused with this error. */
export function waitMessage({ code, status }) {
  if (code === "rate_limit_exceeded") return "This key has sent too many requests in a minute.";
  if (code === "quota_exceeded") return "This key has sent its images of this day.";
  return status === 429 ? "The server's queue is full." : "The server is not ready yet.";
}

/** The message with a capital letter and a full stop. */
export function asSentence(message) {
  const text = message.trim() || "The server gave no reason.";
  const upper = text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(upper) ? upper : `${upper}.`;
}
