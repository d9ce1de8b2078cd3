#!/usr/bin/env bash
# Packs what a machine without compiler or network needs to run scripts/gpu/run.sh:
#
#   scripts/gpu/pack.sh [OUT.tar] [MORE...]
#
# One archive of at most 60 MiB: the program (BONFIRE=path, else target/release/bonfire), stripped and packed by xz, and the
# scripts. The self-test's fixtures are part of the program. MORE are files or folders to take along, such as a peer's script and
# its data. There: tar xf OUT.tar && bonfire-gpu/run.sh OUT
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case ${1:-} in -h | --help) sed -n '2,9p' "$0" | cut -c3-; exit 0 ;; esac
out=${1:-bonfire-gpu.tar}
[ $# -eq 0 ] || shift
most=$((60 * 1024 * 1024))
bonfire=${BONFIRE:-${CARGO_TARGET_DIR:-$here/../../target}/release/bonfire}
[ -x "$bonfire" ] || { echo "error: no program at $bonfire; build it, or set BONFIRE=path" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kit=$work/bonfire-gpu
mkdir "$kit"
strip -o "$work/bonfire" "$bonfire"
# What is carried must start before it travels.
version=$("$work/bonfire" --version)
xz -9 -T0 -c "$work/bonfire" >"$kit/bonfire.xz"
# The licences of what is in the program ask for their texts beside it.
python3 "$here/../notices.py" --out "$kit/THIRD-PARTY.txt" >/dev/null
cp "$here/run.sh" "$here/table.py" "$here/ceilings.py" "$here/README.md" "$kit/"
git -C "$here" rev-parse --short HEAD >"$kit/COMMIT" 2>/dev/null || echo unknown >"$kit/COMMIT"
if ! git -C "$here" diff --quiet HEAD 2>/dev/null; then
  echo "$(cat "$kit/COMMIT") and changes" >"$kit/COMMIT"
fi
for more in "$@"; do
  cp -r "$more" "$kit/"
done
tar -cf "$work/kit.tar" -C "$work" bonfire-gpu
size=$(stat -c %s "$work/kit.tar")
if [ "$size" -gt "$most" ]; then
  echo "error: the archive has $size bytes, and at most $most travel; take less along" >&2
  exit 1
fi
mv "$work/kit.tar" "$out"
echo "$out: $((size / 1024)) KiB, $version, commit $(cat "$kit/COMMIT")"
echo "needs there:"
ldd "$bonfire" | awk '{ print "  " $1 }'
