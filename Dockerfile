# Runs the tests in a container:
#
#   docker build --target cpu  -t elistimator      . && docker run --rm elistimator
#   docker build --target cuda -t elistimator-cuda . && docker run --rm --gpus all elistimator-cuda

FROM rust:1-slim-bookworm AS cpu
# g++ compiles the CUDA kernels for the host in a test, python3 reads our files in others.
RUN apt-get update && apt-get install -y --no-install-recommends g++ python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/python && /opt/python/bin/pip install --no-cache-dir \
    'tensorboard==2.20.*' 'setuptools<81' 'safetensors==0.6.*' 'numpy<3'
ENV ELISTIMATOR_PYTHON=/opt/python/bin/python
WORKDIR /elistimator
COPY . .
RUN cargo test --release --no-run
ENTRYPOINT ["cargo", "test", "--release"]

FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS cuda
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl g++ python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/python && /opt/python/bin/pip install --no-cache-dir \
    'tensorboard==2.20.*' 'setuptools<81' 'safetensors==0.6.*' 'numpy<3'
ENV ELISTIMATOR_PYTHON=/opt/python/bin/python
ENV CARGO_HOME=/usr/local/cargo RUSTUP_HOME=/usr/local/rustup PATH=/usr/local/cargo/bin:$PATH CUDA_PATH=/usr/local/cuda
RUN curl -fsSL https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain stable -c rustfmt -c clippy
# The compute capability of the GPU that the image is for, without its dot: 80 is an A100, 90 an H100 or H200.
ARG CUDA_COMPUTE_CAP=90
ENV CUDA_COMPUTE_CAP=$CUDA_COMPUTE_CAP
WORKDIR /elistimator
COPY . .
# There is no driver while an image is built: the toolkit's stub library is linked, and scripts/cuda-toolkit.sh puts a
# stand-in where dfdx's build script asks nvidia-smi for the GPU.
SHELL ["/bin/bash", "-c"]
RUN source scripts/cuda-toolkit.sh && LIBRARY_PATH=/usr/local/cuda/lib64/stubs cargo test --release --features cuda --no-run
ENTRYPOINT ["bash", "-c", "source scripts/cuda-toolkit.sh && exec cargo test --release --features cuda \"$@\"", "cargo-test"]
