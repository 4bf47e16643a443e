#!/usr/bin/env bash
# Compiles one set of fixtures: `build.sh v1.0 OUT`, from the commit named in README.md. With the compilers named there the files
# are the same byte for byte. Those in this folder are never built again.
set -euo pipefail
version=$1 out=$(realpath "$2")
cd "$(dirname "$0")/../../.."
for source in plain_ssd_scan portable_qmatmul portable_attention; do
  for machine in x86_64 aarch64; do
    "$machine-linux-gnu-gcc" -std=gnu11 -O2 -fPIC -shared -fvisibility=hidden -s -Wl,--build-id=none,-z,max-page-size=4096 \
      -Inative/include -Itests/contract/kernels "tests/contract/kernels/$source.c" \
      -o "$out/$source-$version-$machine.so" -lm
  done
done
