#!/bin/sh
# LLVM for the feature `cuda` where only a Debian mirror can be reached.
#
# CubeCL compiles kernels for CUDA with LLVM, which the build script of its crate tracel-llvm-bundler downloads from a
# release page. Where that page cannot be reached, this unpacks Debian's packages of the same LLVM (suite sid) into the
# folder in which the build script looks first; nothing is installed besides the headers of zlib and zstd. Needs root, a C
# compiler and 500 MB. With a network nobody needs it.
set -eu
bundler=$(sed -n '/^name = "tracel-llvm-bundler"$/{n;s/^version = "\(.*\)"$/\1/p;}' "$(dirname "$0")/../../Cargo.lock")
major=${bundler%%.*}
llvm=${XDG_DATA_HOME:-$HOME/.local/share}/tracel/tracel-llvm-$bundler
mark=$llvm/.tracel-llvm-installed
if [ -e "$mark" ]; then
  echo "LLVM $bundler is there: $llvm"
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mirror=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -1)
[ -n "$mirror" ] || mirror=$(sed -n 's/^deb  *\(\[[^]]*\] *\)\?\([^ ]*\) .*/\2/p' /etc/apt/sources.list | head -1)
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages" "$work/root"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] $mirror sid main" >"$work/sources.list"
# Lists and packages of sid stay apart from the system's.
sid() {
  apt-get -qq -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o "Dir::Etc::SourceList=$work/sources.list" \
    -o Dir::Etc::SourceParts=/dev/null -o APT::Sandbox::User=root "$@"
}
sid update
(cd "$work/packages" && sid download "llvm-$major" "llvm-$major-dev")
for package in "$work"/packages/*.deb; do
  dpkg -x "$package" "$work/root"
done
apt-get install -qq -y zlib1g-dev libzstd-dev >/dev/null

from=$work/root/usr
rm -rf "$llvm"
mkdir -p "$llvm/bin" "$llvm/include"
cp -a "$from/lib/llvm-$major/lib" "$llvm/"
cp -r "$from/include/llvm-$major/." "$from/include/llvm-c-$major/." "$llvm/include/"
cp "$from/lib/llvm-$major/bin/llvm-config" "$llvm/bin/llvm-config-debian"
# Debian's llvm-config names libraries that are not in these packages, and system libraries that nothing here calls.
cat >"$llvm/bin/llvm-config" <<'CONFIG'
#!/bin/sh
bin=$(dirname "$0")
case " $* " in
  *" --system-libs "*) echo "-lrt -ldl -lm -lz -lzstd" ;;
  *" --libs "*)
    for name in $("$bin/llvm-config-debian" "$@"); do
      if [ -e "$bin/../lib/lib${name#-l}.a" ]; then printf '%s ' "$name"; fi
    done
    echo
    ;;
  *) exec "$bin/llvm-config-debian" "$@" ;;
esac
CONFIG
chmod +x "$llvm/bin/llvm-config"
# sid's C library has four functions under names that an older one lacks; these archives call them by those names.
cat >"$work/names.c" <<'NAMES'
#include <stdlib.h>
long __isoc23_strtol(const char *text, char **end, int base) { return strtol(text, end, base); }
long long __isoc23_strtoll(const char *text, char **end, int base) { return strtoll(text, end, base); }
unsigned long __isoc23_strtoul(const char *text, char **end, int base) { return strtoul(text, end, base); }
unsigned long long __isoc23_strtoull(const char *text, char **end, int base) { return strtoull(text, end, base); }
NAMES
cc -O2 -c "$work/names.c" -o "$work/names.o"
ar r "$llvm/lib/libLLVMSupport.a" "$work/names.o" 2>/dev/null
touch "$mark"
echo "LLVM $bundler: $llvm"
