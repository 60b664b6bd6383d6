/** The example's API as its clients see it. */

import { openAsBlob } from "node:fs";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";

import type { NestExpressApplication } from "@nestjs/platform-express";

// 256 x 256.
export const PHOTOGRAPH = fileURLToPath(new URL("../../../../../examples/astronaut.jpg", import.meta.url));

/** Has the application listen; its address. */
export async function listen(app: NestExpressApplication): Promise<string> {
  await app.listen(0, "127.0.0.1");
  return `http://127.0.0.1:${(app.getHttpServer().address() as AddressInfo).port}`;
}

export async function photograph(): Promise<Blob> {
  return openAsBlob(PHOTOGRAPH, { type: "image/jpeg" });
}

/** Uploads a picture; by default the photograph. */
export async function post(
  url: string,
  method: string,
  fields: Record<string, string> = {},
  { image = undefined as Blob | undefined, name = "a photograph.JPG" } = {},
): Promise<Response> {
  const form = new FormData();
  for (const [field, value] of Object.entries(fields)) form.append(field, value);
  form.append("image", image ?? (await photograph()), name);
  return fetch(`${url}/api/upscale/${method}`, { method: "POST", body: form });
}
