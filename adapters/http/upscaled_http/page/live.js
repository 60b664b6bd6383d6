// Follows the server: its jobs by one stream of events, its health by asking.

import { getJson, request, Unreachable } from "./api.js";
import { messages } from "./sse.js";

const HEALTH_BUSY_MS = 3_000;
const HEALTH_IDLE_MS = 10_000;
const HEALTH_LOST_MS = 2_000;
const HEALTH_SHORTEST_MS = 500;
// A lost network reports nothing: without these limits the page would wait for it without end.
const ANSWER_MS = 15_000;
// The server sends something every 15 s.
const SILENCE_MS = 40_000;
const MAX_PAUSE_MS = 10_000;
const PAGE = 500;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Keep `entries` as on the server, without end. Calls `onConnection(true | false)`. */
export async function followJobs(entries, onConnection) {
  for (let failures = 0; ; failures += 1) {
    try {
      // Without the cache: Firefox would hold it back as long as another tab has the same request open.
      const headers = { Accept: "text/event-stream" };
      const stream = await request("events", { headers, cache: "no-store", answerMs: ANSWER_MS });
      // The list is asked for after the stream was opened, so no change is missed.
      await entries.reconcile(listJobs);
      onConnection(true);
      failures = 0;
      for await (const { event, data } of messages(stream.body, SILENCE_MS)) {
        if (event === "job") entries.take(JSON.parse(data));
        else if (event === "removed") entries.drop(JSON.parse(data).job_id);
      }
    } catch {
      // Try again below after every failure.
    }
    onConnection(false);
    await pause(Math.min(MAX_PAUSE_MS, 500 * 2 ** failures));
  }
}

async function listJobs() {
  const jobs = [];
  let before = null;
  do {
    const query = before === null ? "" : `&before=${encodeURIComponent(before)}`;
    const page = await getJson(`jobs?limit=${PAGE}${query}`);
    jobs.push(...page.jobs);
    before = page.next ?? null;
  } while (before !== null);
  // Oldest first, as they were submitted.
  return jobs.reverse();
}

/**
 * Ask for health while the page is visible, without end; calls `onHealth`, with null if there is none.
 * `changed` returns a promise that settles when the queue has changed: then it asks earlier.
 */
export async function followHealth(isBusy, changed, onHealth) {
  for (;;) {
    let isLost = false;
    if (document.visibilityState === "visible") {
      try {
        const response = await request("health", { accept: [503], answerMs: ANSWER_MS });
        const body = await response.json();
        await onHealth(body.limits ? body : null);
      } catch (error) {
        isLost = error instanceof Unreachable;
        if (isLost) onHealth(null);
      }
    }
    const usual = isBusy() ? HEALTH_BUSY_MS : HEALTH_IDLE_MS;
    await Promise.race([pause(isLost ? HEALTH_LOST_MS : usual), changed()]);
    await pause(HEALTH_SHORTEST_MS);
  }
}
