#!/bin/sh
# Compiles math.c to math.bc, the bitcode that builds with the feature `cuda` carry. Needed only after a change of math.c;
# needs clang and LLVM's tools, 14 or newer: bitcode is read by newer LLVMs, never by older ones.
set -eu
cd "$(dirname "$0")"
# CubeCL's own layout of memory, so that linking has nothing to say; no machine type, so that functions are inlined into
# kernels of every architecture; `linkonce_odr`, so that what was inlined leaves nothing behind; no tables, which would lie
# in memory.
layout='e-p6:32:32-i64:64-i128:128-i256:256-v16:16-v32:32-n16:32:64'
clang -O2 -ffp-contract=off -fno-math-errno -fno-jump-tables --target=nvptx64-nvidia-cuda -x c -S -emit-llvm -o - math.c |
  sed -e "s|^target datalayout.*|target datalayout = \"$layout\"|" -e '/^target triple/d' -e '/^source_filename/d' -e '/^!/d' \
    -e 's/, !tbaa ![0-9]*//' -e 's/, !llvm.loop ![0-9]*//' -e 's/^define dso_local/define linkonce_odr/' \
    -e 's/^attributes #\([0-9]*\) = .*/attributes #\1 = { alwaysinline nounwind }/' |
  llvm-as -o math.bc -
# Which math.c it was made from; a test compares.
cksum <math.c >math.sum
