// One task at a time in a panel: its status, cancellation and error message.

import { errorMessage, waitMessage } from "./messages.js";

export class Job {
  #controller = null;
  #work = null;
  #phase = "";

  /** @param {HTMLElement} panel with .status, .cancel, .error */
  constructor(panel, { onEnd = () => {} } = {}) {
    this.panel = panel;
    this.onEnd = onEnd;
    panel.querySelector(".cancel").addEventListener("click", () => this.cancel());
  }

  get busy() {
    return this.#controller !== null;
  }

  /**
   * Runs `work`; cancels what is running.
   *
   * @param {(context: {signal: AbortSignal, onWait: Function, say: Function}) => Promise} work
   */
  async run(work) {
    this.#controller?.abort();
    const controller = (this.#controller = new AbortController());
    const current = () => this.#controller === controller;
    const context = {
      signal: controller.signal,
      say: (text) => current() && this.#enter(text),
      onWait: (error, seconds) => current() && this.#wait(error, seconds),
    };
    this.#work = work;
    this.#showError(null);
    this.#setBusy(true);
    try {
      await work(context);
      context.say("");
    } catch (error) {
      if (current() && !controller.signal.aborted) {
        context.say("");
        this.#showError(errorMessage(error));
      }
    } finally {
      if (current()) this.#end();
    }
  }

  cancel() {
    if (!this.busy) return;
    this.#controller.abort();
    this.#end();
    this.#say("Cancelled.");
  }

  #end() {
    this.#controller = null;
    this.#setBusy(false);
    this.#countdown("");
    this.onEnd();
  }

  #setBusy(busy) {
    this.panel.classList.toggle("busy", busy);
    const button = this.panel.querySelector(".cancel");
    const focused = document.activeElement === button;
    button.hidden = !busy;
    if (focused && !busy) document.querySelector("#main").focus({ preventScroll: true });
  }

  #enter(phase) {
    this.#phase = phase;
    this.#say(phase);
  }

  #say(text) {
    this.panel.querySelector("[role=status]").textContent = text;
  }

  // Screen readers announce it once; the countdown is visual only.
  #wait(error, seconds) {
    const text = seconds ? waitMessage(error) : this.#phase;
    if (this.panel.querySelector("[role=status]").textContent !== text) this.#say(text);
    this.#countdown(seconds ? `Trying again in ${seconds} s.` : "");
  }

  #countdown(text) {
    this.panel.querySelector(".countdown").textContent = text;
  }

  #showError(text) {
    const place = this.panel.querySelector(".error");
    place.replaceChildren();
    if (text === null) return;
    const message = document.createElement("p");
    message.textContent = text;
    const retry = document.createElement("button");
    retry.type = "button";
    retry.textContent = "Try again";
    retry.addEventListener("click", () => this.run(this.#work));
    place.append(message, retry);
  }
}
