# Bonfire in a container.
#
#     docker build -t bonfire .                                                  # CPU, and GPUs by Vulkan
#     docker build -t bonfire:cuda --build-arg FEATURES=cuda .                    # and NVIDIA cards by CUDA
#     docker run --rm -v "$PWD":/work bonfire train
#     docker run --rm --gpus all -v "$PWD":/work bonfire:cuda train --device cuda
#
# CUDA needs no toolkit inside: NVIDIA's container runtime brings the driver's own libraries, and they are opened when a run asks
# for the device. What is written to /work belongs to the user of `--user`, by default number 1000.

ARG RUST=1.95
ARG DEBIAN=bookworm

FROM rust:${RUST}-${DEBIAN} AS build
ARG FEATURES=""
WORKDIR /src
COPY . .
# A line for each licence of what is linked goes with the program.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked ${FEATURES:+--features "$FEATURES"} \
    && python3 scripts/release/notices.py --out /THIRD-PARTY.txt \
    && cp target/release/bonfire /bonfire

FROM debian:${DEBIAN}-slim
# The loader and Mesa's drivers (Intel, AMD, software); NVIDIA's Vulkan driver comes with the runtime.
RUN apt-get update && apt-get install -y --no-install-recommends libvulkan1 mesa-vulkan-drivers \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home bonfire && install -d -o bonfire /work
COPY --from=build /bonfire /usr/local/bin/bonfire
COPY --from=build /THIRD-PARTY.txt /src/LICENSE-MIT /src/LICENSE-APACHE /usr/share/doc/bonfire/
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
USER bonfire
WORKDIR /work
ENTRYPOINT ["bonfire"]
CMD ["--help"]
