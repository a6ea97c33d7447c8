// All requests to the server. Waits while its queue is full and asks for the key if one is needed.
// Knows nothing of the page's elements.

import { askForKey, storedKey } from "./key.js";

// A quota of a day is an error, and not worth a wait.
const LONGEST_WAIT = 120;

/**
 * An error of the server, as a response or as the last event of a stream. Without a code it is none
 * of the API's: a proxy gave it.
 */
export class ServerError extends Error {
  constructor(code, message, status = 0) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

/**
 * The JSON response of a path: POST with a body, GET without.
 *
 * @param {string} path relative to the page's address
 * @param {{body?: object, signal?: AbortSignal, onWait?: (error: ServerError, seconds: number) => void}} options
 *   onWait is called with each second of a wait for the server, which refused with this error, and
 *   with 0 at its end
 */
export async function call(path, options = {}) {
  const response = await request(path, options);
  return response.json().catch(cut);
}

/** The events of a streamed response, as objects. */
export async function* events(path, options) {
  const response = await request(path, options);
  for await (const data of serverSentData(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ServerError(event.error.code, event.error.message);
    yield event;
  }
  cut();
}

function cut() {
  throw new ServerError("answer_cut", "The connection ended early.");
}

async function request(path, { body, signal, onWait = () => {} }) {
  for (;;) {
    const key = storedKey();
    const response = await send(path, body, key, signal);
    if (response.ok) return response;
    const seconds = Number(response.headers.get("Retry-After"));
    if (response.status === 401) {
      await askForKey(key);
    } else if ([429, 503].includes(response.status) && seconds > 0 && seconds <= LONGEST_WAIT) {
      const error = await errorOf(response);
      await countdown(seconds, signal, (left) => onWait(error, left));
    } else {
      throw await errorOf(response);
    }
  }
}

async function send(path, body, key, signal) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  try {
    return await fetch(path, {
      method: body ? "POST" : "GET",
      headers,
      body: body && JSON.stringify(body),
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServerError("connection_lost", "There is no connection.");
  }
}

async function errorOf(response) {
  const { error } = await response.json().catch(() => ({}));
  return new ServerError(error?.code, error?.message, response.status);
}

async function countdown(seconds, signal, onTick) {
  for (let left = Math.ceil(seconds); left > 0; left--) {
    signal?.throwIfAborted();
    onTick(left);
    await pause(1000, signal);
  }
  onTick(0);
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

async function* serverSentData(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let incomplete = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch(cut);
      if (done) return;
      const lines = (incomplete + value).split(/\r?\n/);
      incomplete = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice(5).trim();
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
