/**
 * What the beginning of a line past the limit says.
 *
 * Such a line is dropped as it comes in. It may have been the end of a job, whose call would never end, so
 * its first bytes are kept: results and errors begin with their type and their job_id.
 */

import { LINE_LIMIT_BYTES } from "./jobline.js";
import { ERROR_CODES } from "./protocol.js";
import type { ErrorMessage } from "./protocol.js";

const HEAD = /^\{\s*"type"\s*:\s*("(?:[^"\\]|\\.)*")(?:\s*,\s*"job_id"\s*:\s*(null|"(?:[^"\\]|\\.)*"))?/s;

const LIMIT = `${LINE_LIMIT_BYTES / 2 ** 20} MiB`;

const SENTENCES = new Map<unknown, string>([
  [
    "result",
    `the job is done, but its result was dropped, because the line has more than ${LIMIT}: ` +
      "give output_path instead of output_base64",
  ],
  [
    "error",
    `the job failed, but its error was dropped, because the line has more than ${LIMIT}; the daemon's log may say more`,
  ],
]);

/** Why a daemon is ended whose line may have been the end of any job. */
export const UNREADABLE =
  `it wrote a line of more than ${LIMIT} that does not begin with type and job_id, ` +
  "so the job of that line is unknown";

/**
 * The error that replaces a dropped line; undefined if that line ended no job; "unreadable" if the head of a
 * message does not have its job.
 */
export function lostEnd(head: string): ErrorMessage | "unreadable" | undefined {
  const text = head.trimStart();
  // No message: some library's print.
  if (text !== "" && !text.startsWith("{")) return undefined;
  const [, kind, id] = (HEAD.exec(text) ?? []).map(parsed);
  if (typeof kind !== "string") return "unreadable";
  const error = SENTENCES.get(kind);
  if (error === undefined || id === null) return undefined;
  if (typeof id !== "string") return "unreadable";
  return { type: "error", job_id: id, error, code: "line_too_long", ...ERROR_CODES.line_too_long };
}

function parsed(token: string | undefined): unknown {
  try {
    return token === undefined ? undefined : JSON.parse(token);
  } catch {
    return undefined;
  }
}
