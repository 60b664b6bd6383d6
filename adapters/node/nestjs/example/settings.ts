import { mkdirSync } from "node:fs";
import { resolve } from "node:path";

/** Addresses and folders. The daemon itself reads DEFAULT_DPI, DEFAULT_UPSCALE_FACTOR, MODEL_CACHE_DIR and GCP_*. */
export abstract class Settings {
  abstract readonly uploadDir: string;
  abstract readonly outputDir: string;
  abstract readonly redis: { readonly host: string; readonly port: number };
  /** Jobs of a method at once; of FLUX always one. */
  abstract readonly maxConcurrentJobs: number;
  /** The command that starts the daemon. Default: `upscaled run` in PATH. */
  abstract readonly command?: readonly string[];
  abstract readonly daemonArgs: readonly string[];
  /** The time for running jobs when the application is closed. Default: the client's. */
  abstract readonly closeTimeoutMs?: number;
  abstract readonly port: number;
}

/** The settings that the environment names. Makes the folders. */
export function settingsFrom(env: NodeJS.ProcessEnv): Settings {
  const folder = (name: string): string => {
    const path = resolve(name);
    mkdirSync(path, { recursive: true });
    return path;
  };
  return {
    uploadDir: folder(env["UPLOAD_DIR"] ?? "uploads"),
    outputDir: folder(env["OUTPUT_DIR"] ?? "outputs"),
    redis: { host: env["REDIS_HOST"] ?? "127.0.0.1", port: numberFrom(env, "REDIS_PORT", 6379) },
    maxConcurrentJobs: numberFrom(env, "MAX_CONCURRENT_JOBS", 4),
    ...(env["PYTHON_PATH"] && { command: [env["PYTHON_PATH"], "-m", "upscaled_cli", "run"] }),
    daemonArgs: [],
    port: numberFrom(env, "PORT", 3000),
  };
}

function numberFrom(env: NodeJS.ProcessEnv, name: string, otherwise: number): number {
  const value = Number(env[name] || otherwise);
  if (!Number.isInteger(value) || value < 1) throw new Error(`${name} is not a whole number above 0: ${env[name]}`);
  return value;
}
