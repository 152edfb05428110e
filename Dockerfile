# The image of cedargate. Two ways to build it, one result:
#   docker build -t cedargate .                              compiles here (stages build, image)
#   docker build -t cedargate --target prebuilt .            takes dist/image-<arch>.tar, made by .ci/image-root
# The release takes the second way, so that the image holds the very program of the tar and the Debian package.
# docs/install.md says how to run it; docs/decisions/0045-the-image.md says why it looks like this.
ARG RUST=1.95

# what both have in common
FROM scratch AS base
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="cedargate" \
      org.opencontainers.image.description="Authorization sidecar: decides every request to an app by Cedar policies" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="https://github.com/cedargate/cedargate" \
      org.opencontainers.image.url="https://github.com/cedargate/cedargate" \
      org.opencontainers.image.documentation="https://github.com/cedargate/cedargate/blob/main/docs/install.md" \
      org.opencontainers.image.vendor="cedargate" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/usr/bin
# a configuration at /etc/cedargate/cedargate.yaml is found without an option
WORKDIR /etc/cedargate
USER 65532:65532
# proxy and admin; the decision listener stays on loopback
EXPOSE 8900 8903
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["cedargate", "healthcheck"]
ENTRYPOINT ["cedargate"]
CMD ["serve"]

FROM base AS prebuilt
ARG TARGETARCH
ADD dist/image-${TARGETARCH}.tar /

FROM docker.io/library/rust:${RUST}-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bin cedargate \
    && .ci/image-root target/release/cedargate /image.tar \
    && mkdir /image \
    && tar -xpf /image.tar -C /image

FROM base AS image
COPY --from=build /image/ /
