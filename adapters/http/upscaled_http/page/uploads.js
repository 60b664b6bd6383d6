// Sends pictures, four at a time, and waits when the server asks for it.

import { keyHeaders, parseRetryAfter, problemOf, url } from "./api.js";
import { Entry } from "./entries.js";
import { askForKey, currentKey } from "./key.js";

const AT_A_TIME = 4;
// Without an answer an upload is sent again, with the same Idempotency-Key.
const MAX_ATTEMPTS = 6;
const MAX_PAUSE_S = 15;

export class Uploads {
  /** Calls `onHold` with the seconds until the next upload and the reason, or null. */
  constructor(entries, onHold) {
    this.entries = entries;
    this.onHold = onHold;
    this.waiting = [];
    this.running = new Map();
    this.heldUntil = 0;
    this.reason = "";
    this.timer = null;
  }

  start(staged) {
    const entry = new Entry({ ...staged, phase: "waiting", requestKey: randomKey() });
    this.entries.add(entry);
    this.waiting.push(entry);
    this.pump();
  }

  retry(entry) {
    this.start({
      file: entry.file,
      name: entry.name,
      size: entry.inputSize,
      planned: entry.planned ?? entry.outputSize,
      thumbnail: entry.thumbnail,
      method: entry.method,
      fields: entry.fields,
    });
  }

  /** Give up an upload that is no job yet. */
  cancel(entry) {
    this.waiting = this.waiting.filter((one) => one !== entry);
    this.running.get(entry)?.abort();
    this.entries.remove(entry);
  }

  pump() {
    clearTimeout(this.timer);
    const leftS = (this.heldUntil - Date.now()) / 1000;
    if (this.waiting.length && leftS > 0) {
      this.onHold(Math.ceil(leftS), this.reason);
      this.timer = setTimeout(() => this.pump(), Math.min(1000, leftS * 1000));
      return;
    }
    this.onHold(null);
    while (this.waiting.length && this.running.size < AT_A_TIME) this.send(this.waiting.shift());
  }

  send(entry) {
    const key = currentKey();
    const request = new XMLHttpRequest();
    const form = new FormData();
    for (const [name, value] of Object.entries(entry.fields)) form.append(name, String(value));
    form.append("image", entry.file, entry.name);
    request.open("POST", url(`upscale/${entry.method}`));
    for (const [name, value] of Object.entries(keyHeaders())) request.setRequestHeader(name, value);
    request.setRequestHeader("Idempotency-Key", entry.requestKey);
    request.upload.onprogress = ({ loaded, total }) => {
      this.entries.change(entry, { sent: total ? loaded / total : 0 });
    };
    this.running.set(entry, request);
    this.entries.unanswered += 1;
    this.entries.change(entry, { phase: "uploading", sent: 0, problem: null });
    const end = (act) => () => {
      this.running.delete(entry);
      act();
      this.entries.settle();
      this.pump();
    };
    request.onload = end(() => this.handleAnswer(entry, request, key));
    request.onerror = async () => {
      const canRead = await isReadable(entry.file);
      end(() => (canRead ? this.handleSilence(entry) : this.handleLostFile(entry)))();
    };
    request.onabort = end(() => {});
    request.send(form);
  }

  handleAnswer(entry, request, key) {
    if (request.status >= 200 && request.status < 300) {
      this.entries.adopt(entry, JSON.parse(request.responseText));
      return;
    }
    if (request.status === 401) {
      this.putBack(entry);
      // Nothing is sent until there is another key.
      this.hold(Infinity, "The server needs a key.");
      askForKey(key).then(() => this.release());
      return;
    }
    const retryAfter = request.getResponseHeader("Retry-After");
    const problem = problemOf(request.status, request.responseText, retryAfter);
    if (parseRetryAfter(retryAfter) !== null && [429, 503].includes(request.status)) {
      this.putBack(entry);
      this.hold(problem.retryAfterS, problem.message);
    } else {
      this.entries.change(entry, { phase: "refused", problem });
    }
  }

  handleLostFile(entry) {
    const message = "This browser can no longer read the file: it was moved or changed. Choose it again.";
    this.entries.change(entry, { phase: "refused", problem: { message, retryable: false }, file: null });
  }

  handleSilence(entry) {
    if (!this.entries.all.has(entry)) return;
    entry.attempts += 1;
    if (entry.attempts < MAX_ATTEMPTS) {
      this.putBack(entry);
      this.hold(Math.min(MAX_PAUSE_S, 2 ** (entry.attempts - 1)), "The server does not answer.");
    } else {
      const message = "The server did not answer. Check that it runs, and retry.";
      this.entries.change(entry, { phase: "refused", problem: { message, retryable: true } });
    }
  }

  putBack(entry) {
    this.entries.change(entry, { phase: "waiting", sent: 0 });
    this.waiting.unshift(entry);
  }

  hold(seconds, reason) {
    this.heldUntil = Math.max(this.heldUntil, Date.now() + seconds * 1000);
    this.reason = reason;
  }

  release() {
    this.heldUntil = 0;
    this.pump();
  }
}

/** A file that was moved or changed fails as a lost network does. */
function isReadable(file) {
  return file.slice(0, 1).arrayBuffer().then(
    () => true,
    () => false,
  );
}

// `crypto.randomUUID` exists only over https and on localhost.
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
