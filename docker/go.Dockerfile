# The Go example with the daemon beside it, on the sidecar's image. Build that one first:
#   docker build -f docker/Dockerfile -t upscaled .
#   docker build -f docker/go.Dockerfile -t upscaled-go .
ARG GO_IMAGE=golang:1.24-bookworm@sha256:1a6d4452c65dea36aac2e2d606b01b4a029ec90cc1ae53890540ce6173ea77ac
ARG UPSCALED_IMAGE=upscaled

FROM ${GO_IMAGE} AS build
COPY adapters/go /src
WORKDIR /src
RUN CGO_ENABLED=0 go build -trimpath -o /backend ./examples/backend

# hadolint ignore=DL3006
FROM ${UPSCALED_IMAGE} AS final
COPY --from=build /backend /usr/local/bin/backend
EXPOSE 8090
HEALTHCHECK NONE
ENTRYPOINT ["backend"]
CMD ["-address", "0.0.0.0:8090"]
