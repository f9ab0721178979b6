#!/usr/bin/env bash
# Puts a CUDA 13.0 toolkit under /usr/local/cuda on a machine without a GPU, from PyPI wheels, so that
# `cargo build --features cuda` compiles and links there. The binaries run on a machine with an NVIDIA
# driver of 580 or newer. Safe to run again: it installs nothing where nvcc is already there.
# Needs root, gcc and python3 with venv.
#
#   source scripts/cuda-toolkit.sh        # installs, and exports what building and running need
#
# CUDA_COMPUTE_CAP is the compute capability that dfdx's kernels are built for, without its dot: that of the GPU here by default,
# 90 where there is none.
#
# What it works around in dfdx 0.13.0 / cudarc 0.9.15:
# - dfdx's build script runs `nvidia-smi --query-gpu=compute_cap` even when CUDA_COMPUTE_CAP is set: a shim answers.
# - cudarc looks for include/cuda.h below CUDA_PATH, and links cuda, nvrtc, cublas, cublasLt and curand by their
#   unversioned names, which the wheels do not have: links are made. libcuda comes with the driver only: a stub
#   that exports the names is linked against instead (soname libcuda.so.1, as the real one).
# - dfdx compiles some kernels at run time with the include folder of the BUILD machine in them. /usr/local/cuda is
#   where a CUDA machine has its own, so the same path holds on both.
# The wheels are pinned to 13.0: a newer nvcc writes PTX that a 580 driver refuses to load.

cuda_toolkit_install() (
  set -euo pipefail
  root=$1
  venv=/opt/cuda-wheels
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check \
    'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-runtime==13.0.*' \
    'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cublas==13.0.*' 'nvidia-curand==10.4.*' 'nvidia-cuda-cccl==13.0.*'
  wheels=$(echo "$venv"/lib/python3*/site-packages/nvidia/cu13)
  mkdir -p "$root/lib64/stubs"
  for part in include nvvm; do ln -sfn "$wheels/$part" "$root/$part"; done
  ln -sf "$wheels"/lib/*.so.* "$root/lib64/"
  for lib in cudart nvrtc cublas cublasLt curand; do
    for versioned in "$wheels/lib/lib$lib".so.*; do ln -sf "$versioned" "$root/lib64/lib$lib.so"; done
  done
  # Every driver function that the wheel's cuda.h declares, each returning CUDA_ERROR_NO_DEVICE (100).
  { gcc -E -x c "$root/include/cuda.h" | grep -oE '\bcu[A-Z][A-Za-z0-9_]*[[:space:]]*\(' | tr -d ' ('
    # and the unversioned or _v2 twins that older bindings name
    gcc -E -dM -x c "$root/include/cuda.h" | awk '$2 ~ /^cu[A-Z]/ && $3 ~ /^cu[A-Z]/ {print $2; print $3}'
  } | sort -u | grep -vx 'cuGetErrorName\|cuGetErrorString' |
    awk '{print "int " $1 "(void) { return 100; }"}' > "$root/lib64/stubs/cuda_stub.c"
  for name in cuGetErrorName cuGetErrorString; do
    echo "int $name(int e, const char **s) { *s = \"CUDA_ERROR_NO_DEVICE (libcuda stub)\"; return 0; }"
  done >> "$root/lib64/stubs/cuda_stub.c"
  gcc -w -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$root/lib64/stubs/libcuda.so" "$root/lib64/stubs/cuda_stub.c"
  ln -sf libcuda.so "$root/lib64/stubs/libcuda.so.1"
  # Last, because nvcc being there is what says that the rest is.
  ln -sfn "$wheels/bin" "$root/bin"
)

cuda_toolkit_shim() {
  mkdir -p "$1/shim"
  printf '#!/bin/sh\nprintf "compute_cap\\n%%s\\n" "${CUDA_SHIM_CAP:-9.0}"\n' > "$1/shim/nvidia-smi"
  chmod +x "$1/shim/nvidia-smi"
  export PATH="$PATH:$1/shim" # behind, so that a real nvidia-smi wins
}

if [ -x /usr/local/cuda/bin/nvcc ] || cuda_toolkit_install /usr/local/cuda; then
  CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-$({ nvidia-smi --query-gpu=compute_cap --format=csv,noheader || echo 9.0; } 2> /dev/null |
    sed -n 's/^\([0-9]*\)\.\([0-9]*\).*/\1\2/p' | head -n 1)}
  export CUDA_PATH=/usr/local/cuda CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}" PATH="/usr/local/cuda/bin:$PATH"
  command -v nvidia-smi > /dev/null || cuda_toolkit_shim /usr/local/cuda
  # To run what was built; the stub of libcuda last, so that a driver's own wins.
  export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/usr/local/cuda/lib64"
  ldconfig -p | grep -q 'libcuda\.so\.1' || export LD_LIBRARY_PATH="$LD_LIBRARY_PATH:/usr/local/cuda/lib64/stubs"
else
  echo "cuda-toolkit.sh: the CUDA toolkit could not be installed" >&2
  false
fi
