# syntax=docker/dockerfile:1
# The gateway in a small image, as a user without rights. Dependencies are a layer of their own, built again only
# when a manifest changes.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY shared/Cargo.toml shared/
COPY fanout/Cargo.toml fanout/
COPY gateway/Cargo.toml gateway/
COPY loadtest/Cargo.toml loadtest/
RUN mkdir -p shared/src fanout/src gateway/src loadtest/src \
 && touch shared/src/lib.rs fanout/src/lib.rs gateway/src/lib.rs loadtest/src/lib.rs \
 && echo 'fn main() {}' > gateway/src/main.rs && cp gateway/src/main.rs loadtest/src/main.rs \
 && cargo build --release --locked -p gateway \
 && rm -r shared/src fanout/src gateway/src loadtest/src
COPY shared shared
COPY fanout fanout
COPY gateway gateway
COPY loadtest loadtest
# Which commit it is, for `version` and the log: --build-arg COMMIT=$(git rev-parse --short=12 HEAD)
ARG COMMIT
ENV MUSTER_COMMIT=${COMMIT:-"commit unknown"}
# Newer than what the step above has built.
RUN find shared/src fanout/src gateway/src -name '*.rs' -exec touch {} + \
 && cargo build --release --locked -p gateway

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /var/lib/muster --create-home muster
COPY --from=build /src/target/release/gateway /usr/local/bin/gateway
USER 10001
WORKDIR /var/lib/muster
ENV LISTEN=0.0.0.0:8080 INTERNAL_LISTEN=127.0.0.1:9090 LOG_FORMAT=json
EXPOSE 8080 9090
# A client's way in: the handshake and, where relay has a namespace of its own and there is a JWT_SECRET, CONNECT and an
# echo. It sees the environment and CONFIG, not the container's arguments: with settings in those, give it the same ones.
# A node that is full or drains is healthy. One that gives no answer is not, three times in a row: a full node still has
# places for requests, so then no client at all gets an answer, and nothing tells such a node from one that hangs.
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["/usr/local/bin/gateway", "ping"]
ENTRYPOINT ["/usr/local/bin/gateway"]
