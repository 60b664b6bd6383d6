import { Injectable, ValidationPipe } from "@nestjs/common";
import type { ArgumentMetadata } from "@nestjs/common";

/** Checks fields and queries. An empty one is absent: a form sends every field, also those that were not filled in. */
@Injectable()
export class FormPipe extends ValidationPipe {
  constructor() {
    super({ transform: true, whitelist: true, forbidNonWhitelisted: true });
  }

  override transform(value: unknown, metadata: ArgumentMetadata): Promise<unknown> {
    const isForm = (metadata.type === "body" || metadata.type === "query") && typeof value === "object" && value !== null;
    return super.transform(isForm ? withoutEmpty(value) : value, metadata);
  }
}

function withoutEmpty(fields: object): object {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== ""));
}
