// The API key: requested when the server refuses a request, stored until the tab is closed.

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
  // Set after the dialog is open, so that screen readers announce it.
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

/** The user closed the dialog without a key. */
export class KeyMissing extends Error {}
