/** A host that the test kills, or that ends by itself: `host.js hang`, `host.js idle`. */

import { familyOf, fakeJob, hangingFamilyOf, HANGS, startFake } from "./daemons.js";

const upscaler = await startFake();
if (process.argv[2] === "hang") {
  void upscaler.upscale(fakeJob(HANGS));
  console.log(JSON.stringify(await hangingFamilyOf(upscaler)));
} else {
  await upscaler.upscale(fakeJob());
  await upscaler.health();
  console.log(JSON.stringify(familyOf(upscaler.pid ?? 0)));
}
