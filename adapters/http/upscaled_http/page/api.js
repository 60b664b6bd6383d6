// Requests to the server. If the key is missing or wrong, the user is asked, and the request sent again.

import { askForKey, currentKey, unlock } from "./key.js";

/** A refusal of the server (RFC 9457), with `Retry-After` in seconds, if it was given. */
export class Problem extends Error {
  constructor(status, body, retryAfterS) {
    super(body.detail ?? `The server answered with status ${status}.`);
    this.status = status;
    this.code = body.code ?? "internal";
    this.retryable = body.retryable ?? false;
    this.retryAfterS = retryAfterS;
  }
}

/** The server does not answer. */
export class Unreachable extends Error {
  constructor() {
    super("The server does not answer.");
  }
}

export function url(path) {
  return new URL(`api/${path}`, document.baseURI).href;
}

export function keyHeaders() {
  const key = currentKey();
  return key === null ? {} : { Authorization: `Bearer ${key}` };
}

export function parseRetryAfter(header) {
  if (!header) return null;
  const seconds = /^\d+$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, seconds) : null;
}

export function problemOf(status, text, retryAfter) {
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    // An answer of a proxy: only the status is known.
  }
  return new Problem(status, body, parseRetryAfter(retryAfter));
}

/**
 * The answer, if its status is 2xx or in `accept`. Waits as `Retry-After` says, if it is given.
 * Raises `Problem`, and `Unreachable` if no answer has begun within `answerMs`.
 */
export async function request(path, { accept = [], headers = {}, answerMs = null, ...options } = {}) {
  for (let wasAsked = false; ; ) {
    const key = currentKey();
    const response = await send(path, { ...options, headers: { ...headers, ...keyHeaders() } }, answerMs);
    if (response.status === 401) {
      await askForKey(key);
      wasAsked = true;
    } else if (response.ok || accept.includes(response.status)) {
      if (wasAsked) unlock();
      return response;
    } else {
      const problem = problemOf(
        response.status,
        await response.text(),
        response.headers.get("Retry-After"),
      );
      if (problem.retryAfterS === null || ![429, 503].includes(problem.status)) throw problem;
      await new Promise((resolve) => setTimeout(resolve, problem.retryAfterS * 1000));
    }
  }
}

async function send(path, options, answerMs) {
  const limit = new AbortController();
  const timer = answerMs === null ? null : setTimeout(() => limit.abort(), answerMs);
  try {
    return await fetch(url(path), { ...options, signal: limit.signal });
  } catch {
    throw new Unreachable();
  } finally {
    clearTimeout(timer);
  }
}

export async function getJson(path, options) {
  return (await request(path, options)).json();
}

/** An address for an `img`: the result's own; with a key, a blob's. */
export async function resultSource(jobId, query = "") {
  const path = `results/${jobId}${query}`;
  if (currentKey() === null) return url(path);
  return URL.createObjectURL(await (await request(path)).blob());
}

/** Save an answer as a file. Without a key the browser does it, and shows its progress. */
export async function save(path, fallbackName) {
  const link = document.createElement("a");
  if (currentKey() === null) {
    link.href = url(path);
    link.download = "";
    link.click();
    return;
  }
  const response = await request(path);
  link.download = nameOf(response.headers.get("Content-Disposition")) ?? fallbackName;
  link.href = URL.createObjectURL(await response.blob());
  link.click();
  // The browser reads the blob after this call.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function nameOf(disposition) {
  const encoded = /filename\*=UTF-8''([^;]+)/i.exec(disposition ?? "");
  if (encoded) return decodeURIComponent(encoded[1]);
  return /filename="([^"]+)"/i.exec(disposition ?? "")?.[1] ?? null;
}
