// The API key: asked for when the server refuses, kept until the tab is closed.

const NAME = "vlv-key";
const dialog = document.querySelector("#key-dialog");
let asking = null;

export function storedKey() {
  return sessionStorage.getItem(NAME);
}

/**
 * Asks once, however many requests were refused.
 *
 * @param {?string} refused the key that the server did not accept
 */
export function askForKey(refused) {
  if (storedKey() !== refused) return Promise.resolve();
  asking ??= ask(refused).finally(() => (asking = null));
  return asking;
}

function ask(refused) {
  const field = dialog.querySelector("input");
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  // After it is open, so that it is read out.
  dialog.querySelector("#key-refused").textContent = refused ? "The server did not accept this key." : "";
  return new Promise((resolve, reject) => {
    const closed = () => {
      const key = field.value.trim();
      field.value = "";
      if (dialog.returnValue !== "use" || !key) {
        reject(new KeyMissing());
        return;
      }
      sessionStorage.setItem(NAME, key);
      resolve();
    };
    dialog.addEventListener("close", closed, { once: true });
  });
}

/** The person closed the dialog without a key. */
export class KeyMissing extends Error {}
