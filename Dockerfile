# Tidegate in a container.
#
# Docker (since 25.0) and containerd (since 2.0) forbid io_uring by default, and without it the
# server refuses to start (exit code 69). deploy/seccomp.json allows it, and less than the default
# of the engines besides:
#
#   docker build -t tidegate .
#   docker run --security-opt seccomp=deploy/seccomp.json \
#       --ulimit nofile=1048576 --ulimit memlock=-1 --network host tidegate
#
# Stop it with a patience longer than shutdown.deadline_ms (30 s):
#
#   docker stop --time 45 CONTAINER
#
# deploy/compose and deploy/kubernetes have all of that. scripts/image-steps runs the steps of this
# file without an engine.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /tidegate
# The same sources make the same bytes: locked dependencies, no path and no time of this machine.
ENV CARGO_INCREMENTAL=0 SOURCE_DATE_EPOCH=0 CARGO_HOME=/usr/local/cargo
ENV RUSTFLAGS="--remap-path-prefix=/tidegate=. --remap-path-prefix=/usr/local/cargo=cargo"
COPY Cargo.toml Cargo.lock README.md ./
COPY src src
COPY benches benches
RUN cargo build --release --locked --bin tidegate

FROM debian:bookworm-slim
RUN groupadd --gid 1001 tidegate && useradd --uid 1001 --gid 1001 --no-create-home --shell /usr/sbin/nologin tidegate
COPY --from=build /tidegate/target/release/tidegate /usr/local/bin/
USER 1001:1001
# Clients. The admin listener (8081) stays on loopback unless it has a token.
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=3s --start-period=5s --retries=3 CMD ["tidegate", "healthcheck"]
ENTRYPOINT ["tidegate"]
CMD ["serve"]
