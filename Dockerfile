# Build: the toolchain stays here.
FROM rust:1.95-slim-bookworm AS build
# SQLite, jemalloc and ring are compiled from C.
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev make \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /rowtide
COPY . .
RUN cargo build --release --locked --bin rowtide

# Run: a small system, certificates, one file.
FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin rowtide \
 && install -d -o rowtide -g rowtide -m 0700 /var/lib/rowtide
COPY --from=build /rowtide/target/release/rowtide /usr/local/bin/rowtide
USER rowtide
# What Rowtide must remember over a restart (data_dir).
VOLUME /var/lib/rowtide
WORKDIR /var/lib/rowtide
# SIGTERM: stop reading, wait for answers, checkpoint, exit 0.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/rowtide"]
CMD ["--help"]
