// Messages for errors and waits.

import { ServerError } from "./api.js";
import { KeyMissing } from "./key.js";
import { InvalidPicture } from "./picture.js";

const IMAGE_ERRORS = {
  empty: "This file is empty. Choose another picture.",
  truncated: "This picture is cut off: its data end too early. Save or copy it again, then try once more.",
  corrupt: "This picture is damaged and cannot be read. Choose another one.",
  "unknown-format": "This file is not a picture that can be read. Use JPEG, PNG, WebP or GIF.",
  "too-many-pixels": "This picture has too many pixels. Make it smaller, then try again.",
  "too-large-file": "This file is too large. Make the picture smaller, then try again.",
};

const STATUS_ERRORS = {
  0: "The server does not answer. It may be restarting, or the picture may be too large for it.",
  413: IMAGE_ERRORS["too-large-file"],
  502: "The server does not answer. It may be restarting.",
  503: "The server is not ready: it is starting or stopping.",
  500: "The server failed on this request. Its log says why.",
  504: "This took longer than the server allows. Try fewer steps, fewer beams or a shorter caption.",
};

/** A message for the user about any error. */
export function errorMessage(error) {
  if (error instanceof KeyMissing) return "The server needs an API key.";
  if (error instanceof InvalidPicture) return IMAGE_ERRORS[error.code];
  if (!(error instanceof ServerError)) {
    console.error(error);
    return "This page failed. Reload it and try again.";
  }
  return IMAGE_ERRORS[error.code] ?? STATUS_ERRORS[error.status] ?? asSentence(error.message);
}

/** A message about a wait. */
export function waitMessage(status) {
  return status === 429 ? "The server's queue is full." : "The server is not ready yet.";
}

/** The message with a capital letter and a full stop. */
export function asSentence(message) {
  const text = message.trim() || "The server gave no reason.";
  const upper = text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(upper) ? upper : `${upper}.`;
}
