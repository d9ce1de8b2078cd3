#!/usr/bin/env bash
# One reading of a GPU, in at most eight minutes, the most telling figures first:
#
#   scripts/gpu/run.sh OUT [--tiny] [--device D] [--peer FILE.py] [--data DIR] [--seconds N] [--only STEP,STEP]
#
# Takes the program from BONFIRE=path, else the one beside this script (scripts/gpu/pack.sh puts it there), else builds it.
# Needs no network; uses python3 for the table, PyTorch for the card's ceilings and the peer where they are there. Every step has
# a time limit and a log of its own, and what fails does not stop the rest. OUT/table.md, OUT/results.json and OUT/logs.tar.gz
# come out. --only names steps to take, and leaves out the rest. --tiny takes tiny sizes, on any device, to see that all of it
# works; its figures mean nothing.
set -u

usage() { sed -n '2,10p' "$0" | cut -c3-; exit "${1:-0}"; }
fail() { echo "error: $*" >&2; exit 2; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out='' tiny='' device=auto peer='' data='' seconds=480 only=''
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage ;;
    --tiny) tiny=1 ;;
    --device | --peer | --data | --seconds | --only)
      [ $# -gt 1 ] || fail "$1 needs a value"
      case $1 in --device) device=$2 ;; --peer) peer=$2 ;; --data) data=$2 ;; --only) only=$2 ;; *) seconds=$2 ;; esac
      shift ;;
    -*) fail "$1 is no option; see $0 --help" ;;
    *) [ -z "$out" ] || fail "OUT is given twice: $out, $1"; out=$1 ;;
  esac
  shift
done
[ -n "$out" ] || usage 2
[[ $seconds =~ ^[0-9]+$ ]] || fail "--seconds $seconds; expected a whole number"
[ -z "$peer" ] || [ -r "$peer" ] || fail "--peer $peer cannot be read"
[ -z "$data" ] || [ -d "$data" ] || fail "--data $data is no folder"
mkdir -p "$out" || fail "$out cannot be made"
out=$(cd "$out" && pwd)
[ -z "$peer" ] || peer=$(cd "$(dirname "$peer")" && pwd)/$(basename "$peer")
[ -z "$data" ] || data=$(cd "$data" && pwd)
have() { command -v "$1" >/dev/null 2>&1; }

work=$(mktemp -d) || fail "no folder for temporary files"
smi=''
# shellcheck disable=SC2329 # by the trap
clean() { [ -z "$smi" ] || kill "$smi" 2>/dev/null; rm -rf "$work"; }
trap clean EXIT
steps=$out/steps
rm -rf "$steps" "$out/table.md" "$out/results.json" "$out/logs.tar.gz"
mkdir -p "$steps"
: >"$steps/steps.tsv"

# --- the program -------------------------------------------------------------------------------------------------------

build() {
  have cargo || fail "no program: set BONFIRE=path, or build one with cargo"
  local features=flex,wgpu
  have nvidia-smi && features=$features,cuda
  echo "building with the features $features (BONFIRE=path takes a program that is there)"
  (cd "$here/../.." && cargo build --release --no-default-features --features "$features") || fail "the build failed"
  bonfire=${CARGO_TARGET_DIR:-$here/../../target}/release/bonfire
}
bonfire=${BONFIRE:-}
if [ -z "$bonfire" ]; then
  if [ -x "$here/bonfire" ]; then
    bonfire=$here/bonfire
  elif [ -r "$here/bonfire.xz" ]; then
    bonfire=$work/bonfire
    xz -dc "$here/bonfire.xz" >"$bonfire" || fail "bonfire.xz cannot be unpacked (is xz there?)"
    chmod +x "$bonfire"
  else
    build
  fi
fi
version=$("$bonfire" --version 2>&1) || fail "$bonfire does not start: $version"
commit=$(cat "$here/COMMIT" 2>/dev/null || git -C "$here" rev-parse --short HEAD 2>/dev/null || echo unknown)
# Nothing that was tuned or judged before: a first reading, and the same one every time.
export XDG_CACHE_HOME=$work/cache RUST_BACKTRACE=0

# --- steps -------------------------------------------------------------------------------------------------------------

began=$SECONDS
left() { echo $((seconds - (SECONDS - began))); }
table() { have python3 && python3 "$here/table.py" "$out" "$@"; }

# Notes a step: name, exit status or why there is none, seconds, what it is, the command.
note() { printf '%s\t%s\t%s\t%s\t%s\n' "$@" >>"$steps/steps.tsv"; }

# The command as somebody would type it: the program by its name, without where its JSON goes.
shown() {
  local word words=()
  while [ $# -gt 0 ]; do
    word=$1
    shift
    case $word in
      "$bonfire" | "${BONFIRE_VULKAN:-$bonfire}") words+=(bonfire) ;;
      --json) case ${1:-} in "$steps"/*) shift ;; *) words+=(--json) ;; esac ;;
      "$work"/*) words+=("${word##*/}") ;;
      "$here"/*) words+=("scripts/gpu/${word##*/}") ;;
      *) words+=("$word") ;;
    esac
  done
  printf '%s' "${words[*]}"
}

wanted() { [[ -z $only || ,$only, == *",$1,"* ]]; }

skip() { # NAME WHAT WHY COMMAND...
  local name=$1 what=$2 why=$3
  shift 3
  wanted "$name" || return 0
  note "$name" "$why" 0 "$what" "$(shown "$@")"
  echo "-- $name: skipped, $why"
}

step() { # NAME LIMIT WHAT COMMAND...
  local name=$1 limit=$2 what=$3 start=$SECONDS rc spare
  shift 3
  wanted "$name" || return 0
  spare=$(left)
  if [ "$spare" -lt 5 ]; then
    skip "$name" "$what" "the time was up" "$@"
    return
  fi
  limit=$((limit * patience))
  [ "$limit" -le "$spare" ] || limit=$spare
  timeout -k 5 "$limit" "$@" >"$steps/$name.out" 2>"$steps/$name.log" </dev/null
  rc=$?
  note "$name" "$rc" $((SECONDS - start)) "$what" "$(shown "$@")"
  echo "-- $name: rc $rc, $((SECONDS - start)) s"
  # A run that is cut off has a table all the same.
  table >/dev/null 2>&1
}

bench() { # NAME LIMIT WHAT PARTS-AND-OPTIONS...
  local name=$1 limit=$2 what=$3
  shift 3
  step "$name" "$limit" "$what" "$bonfire" bench "$@" --device "$device" --json "$steps/$name.json"
}

# Sets `tera` to the option that says what the card does at most in a precision, as was measured at the start.
tera=()
peak() {
  local found
  tera=()
  found=$(table --peak "$1" 2>/dev/null) && [ -n "$found" ] && tera=(--peak-tflops "$found")
}

# --- sizes -------------------------------------------------------------------------------------------------------------

if [ -n "$tiny" ]; then
  encoder=(--shape builtin --clients 3 --batch 2 --rank 4) long=2 short=1 repeats=1
  decoder=(--shape tiny-decoder --clients 2 --rank 2 --tokens 64 --lengths 8-24 --steps 1 --repeats 1)
  flight=4 flights=(--shape builtin --batch 2 --rank 4 --steps 1 --precision f32) examples=8
  real=(--tokens 128) rounds=(--shape builtin --clients 3 --batch 2 --rank 4 --steps 1 --repeats 1)
  train=(--set train.rounds=1 --set train.epochs=1 --set clients.count=2 --set data.labels=2 --set data.min_shard=4)
  # A software GPU compiles slowly.
  patience=4
else
  # RoBERTa-base's shape and 30 clients of 32 texts: 15,000 tokens a step.
  encoder=(--shape roberta-base --clients 30 --batch 32 --rank 16) long=32 short=4 repeats=2
  decoder=(--shape llama-1b --clients 8 --rank 16 --tokens 4096 --lengths 64-192 --steps 4 --repeats 2)
  flight=256 flights=(--shape roberta-base --batch 8 --rank 16 --steps 1 --precision bf16) examples=2048
  real=() rounds=("${encoder[@]}" --steps "$short" --repeats 2)
  train=(--set train.rounds=5) patience=1
fi
{
  echo "started	$(date -u +%Y-%m-%dT%H:%M:%SZ)"
  echo "bonfire	$version"
  echo "commit	$commit"
  echo "sizes	$([ -n "$tiny" ] && echo tiny || echo real)"
  echo "device asked for	$device"
  echo "system	$(uname -srm)"
  echo "cpu	$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -1), $(nproc 2>/dev/null || echo '?') threads"
  have nvidia-smi && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null |
    awk -F', ' '{ print "card\t" $1 ", " $3; print "driver\t" $2 }'
} >"$steps/machine.tsv"
cat "$steps/machine.tsv"

# --- the reading, most valuable first ------------------------------------------------------------------------------------

if have python3 && python3 -c 'import torch' 2>/dev/null; then
  step ceiling-torch 40 "the card's ceilings, by PyTorch" python3 "$here/ceilings.py"
else
  skip ceiling-torch "the card's ceilings, by PyTorch" "no python3 with torch" python3 "$here/ceilings.py"
fi
own_ceiling() { bench ceiling 60 "the ceilings of Burn's own operations" ceiling --repeats 3; }
# What PyTorch's products reach stands beside every rate; where there is no PyTorch, Burn's own.
peak f32 || own_ceiling
step doctor 90 "doctor" "$bonfire" doctor --device "$device" --json --quiet
step self-test 90 "operations and small models against f64 and PyTorch" \
  "$bonfire" self-test --quick --device "$device" --json --seconds $((80 * patience))
peak bf16
bench gemm-bf16 60 "products of a step in bf16" gemm "${encoder[@]}" --steps "$short" --precision bf16 "${tera[@]}"

# A round's own cost is the difference between many local steps and few.
training() { # PRECISION STEPS NAME
  local precision=$1 count=$2 name=$3
  peak "$precision"
  bench "$name" 90 "local training in $precision (steps: $count)" \
    step "${encoder[@]}" --steps "$count" --ways all-in-flight --repeats "$repeats" --precision "$precision" "${tera[@]}"
}
training bf16 "$long" step-bf16

# The peer wants a tokenizer and texts; its weights are random too.
peers() { # NAME LIMIT WHAT OPTIONS...
  local name=$1 limit=$2 what=$3 size=(--clients 6 --steps 8)
  shift 3
  [ -n "$tiny" ] && size=(--clients 1 --steps 1)
  local on=${device%%:*}
  [ "$on" = cuda ] || [ "$on" = auto ] || on=cpu
  [ "$on" = auto ] && on=cuda
  local command=(python3 "${peer:-PEER.py}" speed --shape roberta-base --model "${data:-DIR}" --data "${data:-DIR}" --device "$on"
    --batch 32 --rank 16 --reps 1 "${size[@]}" "$@")
  if [ -z "$peer" ]; then
    skip "$name" "$what" "no --peer" "${command[@]}"
  elif [ -z "$data" ]; then
    skip "$name" "$what" "no --data with a tokenizer and texts" "${command[@]}"
  elif [[ $* == *--padding-free* ]] && ! grep -q -e padding-free "$peer"; then
    skip "$name" "$what" "the peer knows no --padding-free" "${command[@]}"
  else
    step "$name" "$limit" "$what" "${command[@]}"
  fi
}
peers peer-bf16 60 "the peer in bf16, padded" --dtype bf16
step self-test-real 90 "operations at real shapes against f64" \
  "$bonfire" self-test --real "${real[@]}" --device "$device" --json --seconds $((75 * patience))
training bf16 "$short" step-bf16-short
peers peer-bf16-sliced 40 "the peer in bf16, four slices of like length" --dtype bf16 --slices 4
peers peer-bf16-packed 40 "the peer in bf16, padding-free" --dtype bf16 --padding-free
peak bf16
bench decoder-bf16 90 "a decoder's local training in bf16" \
  step "${decoder[@]}" --ways all-in-flight --precision bf16 "${tera[@]}"
for precision in f32 tf32; do
  training "$precision" "$long" "step-$precision"
  training "$precision" "$short" "step-$precision-short"
done
[ -e "$steps/ceiling.json" ] || own_ceiling

# Memory beside the rounds, where the driver tells.
if have nvidia-smi; then
  nvidia-smi --query-gpu=timestamp,memory.used,utilization.gpu --format=csv,noheader,nounits -lms 500 >"$steps/memory.csv" 2>/dev/null &
  smi=$!
fi
bench rounds 60 "rounds of LoRA-A2" round "${rounds[@]}" --strategy lora-a2 --budget 1
step train 90 "bonfire train on the built-in corpus, LoRA-A2" \
  "$bonfire" train --device "$device" --out "$work/run" --quiet "${train[@]}"
[ -z "$smi" ] || kill "$smi" 2>/dev/null
smi=''
cp "$work/run/summary.json" "$steps/train.json" 2>/dev/null

# Of the two curves of `bench scale`, one text in all leaves one a single point, and one client the other.
bench in-flight 90 "clients in flight" scale "${flights[@]}" --clients "$flight" --examples 1 --repeats 1
bench scale 90 "the same texts over more and more clients" \
  scale "${flights[@]}" --clients 1 --examples "$examples" --repeats 1
vulkan=("$bonfire" doctor --device wgpu --json --quiet)
[ -z "${BONFIRE_VULKAN:-}" ] || vulkan=("$BONFIRE_VULKAN" doctor --device vulkan --json --quiet)
case $device,${BONFIRE_VULKAN:-} in
  cpu*) skip vulkan "doctor on Vulkan" "--device cpu asks for no GPU" "${vulkan[@]}" ;;
  wgpu*,) skip vulkan "doctor on Vulkan" "the doctor above says it" "${vulkan[@]}" ;;
  *) step vulkan 60 "doctor on Vulkan" "${vulkan[@]}" ;;
esac
peak f32
bench decoder-f32 60 "a decoder's local training in f32" \
  step "${decoder[@]}" --ways all-in-flight --precision f32 "${tera[@]}"

# --- the end -----------------------------------------------------------------------------------------------------------

echo "seconds	$((SECONDS - began))" >>"$steps/machine.tsv"
if table; then
  tar -czf "$out/logs.tar.gz" -C "$out" steps && rm -rf "$steps"
else
  tar -czf "$out/logs.tar.gz" -C "$out" steps
  cat "$steps/steps.tsv"
  echo "no table without python3: where there is one, unpack logs.tar.gz in OUT and run scripts/gpu/table.py OUT" >&2
fi
