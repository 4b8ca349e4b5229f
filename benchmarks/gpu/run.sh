#!/usr/bin/env bash
# One stage on the GPU machine, from the root of a checkout; each ends inside 9 minutes.
#
#     benchmarks/gpu/run.sh PLACE STAGE [ARGUMENTS]
#
# PLACE: where the pieces of bring.sh were unpacked. STAGE: tests, throughput, real_run or onnxruntime_cuda.
# DRY=1 makes the trial run that needs no GPU and writes no result.
set -euo pipefail
place=${1:?where the pieces were unpacked}
stage=${2:?which: tests throughput real_run onnxruntime_cuda}
shift 2

site=$place/site
if [ -d "$place/wheels" ] && [ ! -d "$site" ]; then
  python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$place"/wheels/*.whl
fi
export PYTHONPATH=.:plugins:export:$site${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

dry=()
dataset=(--dataset "flickr8k@$place/flickr8k")
if [ -n "${DRY:-}" ]; then
  dry=(--device cpu --size tiny --minutes 1)
  dataset=(--dataset shapes)
fi
case $stage in
  tests) python3 -m pytest -m gpu --timeout 300 -p no:cacheprovider "$@" ;;
  throughput) python3 -m benchmarks.gpu.throughput "${dry[@]}" "$@" ;;
  real_run) python3 -m benchmarks.gpu.real_run "${dataset[@]}" "${dry[@]}" "$@" ;;
  onnxruntime_cuda) python3 -m benchmarks.gpu.onnxruntime_cuda "${dry[@]}" "$@" ;;
  *) echo "no such stage: $stage" >&2; exit 2 ;;
esac
