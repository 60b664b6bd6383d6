/** A daemon in a few lines, which holds each job until it is cancelled: for what the API does around the jobs. */

const SCRIPT = `
const say = (message) => process.stdout.write(JSON.stringify(message) + "\\n");
say({ type: "status", message: "ready", protocol: 1 });
require("node:readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const { type = "job", job_id } = JSON.parse(line);
  if (type === "job") {
    say({ type: "accepted", job_id, position: 0 });
    say({ type: "progress", job_id, progress: 50, stage: "upscale" });
  }
  if (type === "cancel") say({ type: "error", job_id, error: "as told", code: "cancelled", retryable: false });
}).on("close", () => process.exit(0));`;

/** Its command; what else the command is given is passed over. */
export const HOLDING_DAEMON = [process.execPath, "-e", SCRIPT, "--"];

/** The same as the text of a program. */
export const HOLDING_PROGRAM = `#!${process.execPath}\n${SCRIPT}`;
