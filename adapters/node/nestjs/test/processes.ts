/** Processes to look at, and a bounded wait. */

import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

// Much longer than any test takes, also on a busy machine.
export const TIMEOUT_MS = 100_000;

export async function waitUntil(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const end = Date.now() + TIMEOUT_MS;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`${what} did not come about`);
    await delay(20);
  }
}

/** The process's parent; undefined if the process has exited. */
function parentOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const [state, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return state === "Z" ? undefined : Number(parent);
  } catch {
    return undefined;
  }
}

export function isAlive(pid: number): boolean {
  return parentOf(pid) !== undefined;
}

/** The process and all that descend from it. */
export function familyOf(pid: number): number[] {
  const all = readdirSync("/proc").filter((name) => /^\d+$/.test(name)).map(Number);
  const parents = new Map(all.map((one) => [one, parentOf(one)]));
  const family = [pid];
  for (const one of family) family.push(...all.filter((child) => parents.get(child) === one));
  return family;
}
