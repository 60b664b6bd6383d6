/** The daemon's health in the manner of `@nestjs/terminus`. */

import { Inject, Injectable } from "@nestjs/common";
import { HealthIndicatorService } from "@nestjs/terminus";
import type { HealthIndicatorResult } from "@nestjs/terminus";

import { UpscaledService } from "./upscaled.service.js";

// A daemon answers at once, also while it works or loads; probes give up after some seconds themselves.
const TIMEOUT_MS = 2000;

// It takes jobs, if not all of them or at once; `detail` says why.
const SERVING = new Set(["ok", "loading", "degraded"]);

@Injectable()
export class UpscaledHealthIndicator {
  constructor(
    @Inject(UpscaledService) private readonly upscaled: UpscaledService,
    @Inject(HealthIndicatorService) private readonly indicators: HealthIndicatorService,
  ) {}

  /**
   * Up while the daemon takes jobs, else down; with its report, whose `status` is called `state` here. The
   * rows of its workers are left out: they name jobs, and a health page is often public.
   */
  async isHealthy<Key extends string>(
    key: Key,
    { timeoutMs = TIMEOUT_MS }: { timeoutMs?: number } = {},
  ): Promise<HealthIndicatorResult<Key>> {
    const indicator = this.indicators.check(key);
    try {
      const report = await this.upscaled.health({ timeoutMs });
      const { type: _type, request_id: _id, workers: _workers, status: state, ...fields } = report;
      return SERVING.has(state) ? indicator.up({ state, ...fields }) : indicator.down({ state, ...fields });
    } catch (error) {
      return indicator.down(error instanceof Error ? error.message : String(error));
    }
  }
}
