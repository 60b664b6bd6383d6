# The NestJS example with the daemon beside it, on the sidecar's image. Build that one first:
#   docker build -f docker/Dockerfile -t upscaled .
#   docker build -f docker/nest.Dockerfile -t upscaled-nest .
ARG NODE_IMAGE=node:22-bookworm-slim@sha256:43ac6c60b8f89723f746e8a92ce91abd5017e627ce1ddfe4238355d3a30b772c
ARG UPSCALED_IMAGE=upscaled

FROM ${NODE_IMAGE} AS build
COPY adapters/node /app
WORKDIR /app/nestjs
RUN npm --prefix .. install --no-audit --no-fund \
 && npm install --no-audit --no-fund \
 && npm run build

# hadolint ignore=DL3006
FROM ${UPSCALED_IMAGE} AS final
COPY --from=build /usr/local/bin/node /usr/local/bin/node
COPY --from=build /app /app
USER 0
RUN install -d -o 10001 -g 10001 /uploads /results
USER 10001:10001
WORKDIR /app/nestjs
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT || 3000}/api/health`).then((answer) => process.exit(answer.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["node"]
CMD ["dist/example/main.js"]
