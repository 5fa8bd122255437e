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

# Both images are of one Debian, and named by what they contain: the same today and in a year. For newer ones
# (a Rust, Debian's security updates) look up the digest and change it here:
#   docker buildx imagetools inspect debian:bookworm-slim
FROM rust:1.95.0-slim-bookworm@sha256:d7482085ff5b415f84dba5647ae71606650bdef00db7aeb69f4b3d170c3e4082 AS build
WORKDIR /tidegate
# The same sources make the same bytes: locked dependencies, no path and no time of this machine.
ENV CARGO_INCREMENTAL=0 SOURCE_DATE_EPOCH=0 CARGO_HOME=/usr/local/cargo
# What a backtrace needs for file and line is most of the program, and shrinks well.
ENV RUSTFLAGS="--remap-path-prefix=/tidegate=. --remap-path-prefix=/usr/local/cargo=cargo -Clink-arg=-Wl,--compress-debug-sections=zlib"
COPY Cargo.toml Cargo.lock README.md ./
COPY src src
COPY benches benches
RUN cargo build --release --locked --bin tidegate

FROM debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171
RUN groupadd --gid 1001 tidegate && useradd --uid 1001 --gid 1001 --no-create-home --shell /usr/sbin/nologin tidegate
# What rediss:// trusts.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /tidegate/target/release/tidegate /usr/local/bin/
USER 1001:1001
# Clients. The admin listener (8081) stays on loopback unless it has a token.
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=3s --start-period=5s --retries=3 CMD ["tidegate", "healthcheck"]
ENTRYPOINT ["tidegate"]
CMD ["serve"]
