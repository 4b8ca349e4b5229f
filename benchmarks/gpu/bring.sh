#!/usr/bin/env bash
# For a GPU machine without a network: everything it lacks, in pieces that travel one by one.
#
#     benchmarks/gpu/bring.sh TARGET [FLICKR8K]     here, with a network -> TARGET/piece-*
#     cat TARGET/piece-* | tar -x -C PLACE          there -> PLACE/wheels, PLACE/flickr8k
#
# FLICKR8K: a directory in the layout of the hub's jxie/flickr8k. PIECE: the largest piece, 60M unless set.
set -euo pipefail
target=${1:?where to, please}
flickr8k=${2:-}
repository=$(cd "$(dirname "$0")/../.." && pwd)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
platforms=()
for name in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${name}_x86_64")
done
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  "${platforms[@]}" -c "$repository/constraints.txt" -r "$repository/benchmarks/gpu/packages.txt" -d "$work/wheels"
if [ -n "$flickr8k" ]; then
  ln -s "$(realpath "$flickr8k")" "$work/flickr8k"
fi
mkdir -p "$target"
tar -C "$work" --dereference -c . | split -b "${PIECE:-60M}" - "$target/piece-"
(cd "$target" && sha256sum piece-* | tee pieces.sha256 | awk '{ print $2 }' | xargs du -h)
