// The one door to the server. Waits while its queue is full, asks for the key where it wants one;
// knows nothing of what is shown.

import { askForKey, storedKey } from "./key.js";

/** A refusal of the server, or its absence (status 0). */
export class ServerError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/**
 * The JSON answer of a path: POST with a body, GET without.
 *
 * @param {string} path below the page's own address
 * @param {{body?: object, signal?: AbortSignal, onWait?: (status: number, seconds: number) => void}} options
 *   onWait hears each second of a wait for the server, and 0 at its end
 */
export async function call(path, options = {}) {
  const response = await request(path, options);
  return response.json();
}

/** The events of a streamed answer, as objects. */
export async function* events(path, options) {
  const response = await request(path, options);
  for await (const data of serverSentData(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ServerError(500, event.error.code, event.error.message);
    yield event;
  }
  throw away();
}

async function request(path, { body, signal, onWait = () => {} }) {
  for (;;) {
    const key = storedKey();
    const response = await send(path, body, key, signal);
    if (response.ok) return response;
    const seconds = Number(response.headers.get("Retry-After"));
    if (response.status === 401) {
      await askForKey(key);
    } else if ([429, 503].includes(response.status) && seconds > 0) {
      await countdown(seconds, signal, (left) => onWait(response.status, left));
    } else {
      throw await refusal(response);
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
    throw away();
  }
}

function away() {
  return new ServerError(0, "away", "The connection ended early.");
}

async function refusal(response) {
  const { error } = await response.json().catch(() => ({}));
  return new ServerError(response.status, error?.code, error?.message ?? response.statusText);
}

async function countdown(seconds, signal, tell) {
  for (let left = Math.ceil(seconds); left > 0; left--) {
    tell(left);
    await pause(1000, signal);
  }
  tell(0);
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
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice(5).trim();
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
