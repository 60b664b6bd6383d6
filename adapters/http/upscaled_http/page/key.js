// The key: asked for when the server wants one, kept in this tab's sessionStorage.

const NAME = "upscaled.key";
const lock = document.getElementById("lock");
const main = document.getElementById("main");
const form = document.getElementById("key-form");
const input = document.getElementById("key");
const fault = document.getElementById("key-fault");
const forgetButton = document.getElementById("forget-key");

let asking = null;

export function currentKey() {
  return sessionStorage.getItem(NAME);
}

/** Wait until the user has given another key than `refused`. */
export async function askForKey(refused) {
  if (currentKey() !== refused) return;
  asking ??= ask(refused).finally(() => {
    asking = null;
  });
  await asking;
}

function ask(refused) {
  main.hidden = true;
  lock.hidden = false;
  forgetButton.hidden = true;
  fault.textContent = refused === null ? "" : "The server does not know this key. Check it, and enter it again.";
  input.setAttribute("aria-invalid", String(refused !== null));
  input.focus();
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      const key = input.value.trim();
      // A header takes no other characters.
      if (!/^[\x21-\x7e]+$/.test(key)) {
        fault.textContent = "A key has letters, digits and signs without spaces. Check it, and enter it again.";
        return;
      }
      sessionStorage.setItem(NAME, key);
      resolve();
    };
  });
}

/** The server took the key: show the page. */
export function unlock() {
  forgetButton.hidden = currentKey() === null;
  if (asking || lock.hidden) return;
  lock.hidden = true;
  main.hidden = false;
  input.value = "";
  document.getElementById("drop").focus();
}

/** Call `clear`, then forget the key and start again. */
export function onForget(clear) {
  forgetButton.hidden = currentKey() === null;
  forgetButton.addEventListener("click", async () => {
    await clear();
    sessionStorage.removeItem(NAME);
    location.reload();
  });
}
