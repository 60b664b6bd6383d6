import { InjectQueue } from "@nestjs/bullmq";
import { Controller, Get, Inject, Injectable } from "@nestjs/common";
import { ApiOperation, ApiTags } from "@nestjs/swagger";
import { HealthCheck, HealthCheckService, HealthIndicatorService } from "@nestjs/terminus";
import type { HealthCheckResult, HealthIndicatorResult } from "@nestjs/terminus";
import type { Queue } from "bullmq";
import { firstValueFrom, from, timeout } from "rxjs";
import { UpscaledHealthIndicator } from "upscaled-nestjs/terminus";

import { queueOf } from "./methods.js";

// A client waits for a Redis that is away; a probe does not.
const REDIS_TIMEOUT_MS = 1000;

@Injectable()
export class RedisHealthIndicator {
  constructor(
    @InjectQueue(queueOf("esrgan")) private readonly queue: Queue,
    @Inject(HealthIndicatorService) private readonly indicators: HealthIndicatorService,
  ) {}

  async isHealthy(key: string): Promise<HealthIndicatorResult> {
    const indicator = this.indicators.check(key);
    try {
      await firstValueFrom(from(this.queue.count()).pipe(timeout(REDIS_TIMEOUT_MS)));
      return indicator.up();
    } catch (error) {
      return indicator.down(error instanceof Error ? error.message : String(error));
    }
  }
}

@ApiTags("health")
@Controller("api/health")
export class HealthController {
  constructor(
    @Inject(HealthCheckService) private readonly health: HealthCheckService,
    @Inject(UpscaledHealthIndicator) private readonly upscaled: UpscaledHealthIndicator,
    @Inject(RedisHealthIndicator) private readonly redis: RedisHealthIndicator,
  ) {}

  @Get()
  @ApiOperation({ summary: "How the daemon and Redis are; 503 if either is down." })
  @HealthCheck()
  check(): Promise<HealthCheckResult> {
    return this.health.check([() => this.upscaled.isHealthy("upscaled"), () => this.redis.isHealthy("redis")]);
  }
}
