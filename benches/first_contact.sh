#!/usr/bin/env bash
# The first quarter of an hour of selma on a card: what works, and how fast. Run it, and send first-contact/report.md or
# report.json.
#
#     benches/first_contact.sh [--selma PROGRAM] [--out FOLDER] [--device cuda:N] [--only STEP]...
#
# PROGRAM is target/release/selma unless given, FOLDER first-contact. Every step has a time limit. What is done is not done
# again: where the machine hangs, run the same command after the restart, and it goes on behind the step that hung.
# `--fresh` begins anew. Needs bash, coreutils, awk; Python with PyTorch only for the comparison with it.
set -uo pipefail
cd "$(dirname "$0")/.."

selma=target/release/selma
out=first-contact
device=cuda
only=()
while [ $# -gt 0 ]; do
    case "$1" in
        --selma) selma="$2"; shift 2 ;;
        --out) out="$2"; shift 2 ;;
        --device) device="$2"; shift 2 ;;
        --only) only+=("$2"); shift 2 ;;
        --fresh) fresh=yes; shift ;;
        *) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
done
if ! command -v "$selma" > /dev/null; then
    echo "first_contact.sh: $selma is no program: cargo build --release makes it, or --selma names another" >&2
    exit 2
fi
selma="$(command -v "$selma")"
selma="$(cd "$(dirname "$selma")" && pwd)/$(basename "$selma")"
[ -n "${fresh:-}" ] && rm -rf "$out/steps"
mkdir -p "$out/steps"
out="$(cd "$out" && pwd)"

# A text as a JSON string: without control characters, invalid bytes replaced.
json_string() {
    LC_ALL=C awk 'BEGIN { ORS = ""; print "\"" }
        { gsub(/\\/, "\\\\"); gsub(/"/, "\\\""); gsub(/\t/, "\\t"); gsub(/[\001-\037\177-\377]/, "?"); print $0 "\\n" }
        END { print "\"" }'
}

# step NAME SECONDS COMMAND...: runs it unless it is done; FOLDER/steps/NAME.{status,seconds,stdout,stderr} say how it went.
step() {
    local name="$1" limit="$2" at="$out/steps/$1"
    shift 2
    if [ ${#only[@]} -gt 0 ] && [[ " ${only[*]} " != *" $name "* ]]; then return; fi
    if [ -f "$at.running" ]; then
        # The machine or this script ended while it ran.
        mv "$at.running" "$at.status"
        echo hung > "$at.status"
    fi
    if [ -f "$at.status" ]; then
        echo "$name: $(cat "$at.status") (done before)"
        return
    fi
    echo "$name ..."
    echo "$*" > "$at.command"
    touch "$at.running"
    sync
    local begin end code
    begin="$(date +%s.%N)"
    timeout --kill-after=20 "$limit" "$@" > "$at.stdout" 2> "$at.stderr"
    code=$?
    end="$(date +%s.%N)"
    awk "BEGIN { printf \"%.2f\n\", $end - $begin }" > "$at.seconds"
    case "$code" in
        0) echo ok ;;
        77) echo skipped ;;
        124 | 137) echo "no end after $limit s" ;;
        *) echo "failed ($code)" ;;
    esac > "$at.status.new"
    mv "$at.status.new" "$at.status"
    rm -f "$at.running"
    echo "$name: $(cat "$at.status"), $(cat "$at.seconds") s"
}

sanitizer() {
    command -v compute-sanitizer > /dev/null || { echo "compute-sanitizer is not installed"; exit 77; }
    for tool in memcheck racecheck; do
        echo "$tool"
        compute-sanitizer --tool "$tool" --error-exitcode 9 "$selma" selfcheck --device "$device" --small || exit $?
    done
}

# Four steps of a tiny model on the card, in f32, and on the CPU: the largest difference of their losses.
train_tiny() {
    local model=tests/fixtures/parity/models/tiny-sdxl vocabulary=tests/fixtures/parity/clip_vocab work="$out/train_tiny"
    [ -d "$model" ] || { echo "the tests' models are not here"; exit 77; }
    rm -rf "$work"
    mkdir -p "$work/images"
    # Images as selma itself draws them.
    "$selma" generate --model shapes --prompt "a red circle" --steps 4 --device cpu --quiet --out "$work/drawn" || exit $?
    for i in 0 1 2; do
        cp "$work/drawn/00000.png" "$work/images/$i.png"
        echo "image number $i" > "$work/images/$i.txt"
    done
    for where in cpu "$device"; do
        "$selma" train --model "$model" --vocab "$vocabulary" --data "$work/images" --out "$work/${where%:*}" --rank 4 \
            --steps 4 --batch-size 2 --grad-accum 2 --resolution 32 --precision f32 --device "$where" --quiet || exit $?
    done
    losses() { sed 's/.*"loss":\([-0-9.e+]*\).*/\1/' "$work/$1/metrics.jsonl"; }
    paste <(losses cpu) <(losses "${device%:*}") | awk '
        { d = ($1 - $2) / $1; d = d < 0 ? -d : d; if (!(d <= most)) most = d; n++ }
        END { printf "{\"steps\": %d, \"largest_relative_difference_of_losses\": %g}\n", n, most; exit !(n == 4 && most < 1e-3) }'
}

# PyTorch's times beside selma's, where Python has it.
peers() {
    local python
    python="$(command -v python3 || command -v python)" || { echo "Python is not installed"; exit 77; }
    "$python" -c 'import torch, diffusers, peft; assert torch.cuda.is_available()' 2> /dev/null ||
        { echo "Python has no torch with CUDA, diffusers and peft"; exit 77; }
    "$python" benches/peers/gpu.py --selma-command "$selma bench --device $device --precision bf16 --json"
}

# Functions run as commands of their own, so that `timeout` can end them.
export selma out device
export -f sanitizer train_tiny peers

step doctor 60 "$selma" doctor --json
step selfcheck_small 600 "$selma" selfcheck --device "$device" --small --json
step selfcheck 600 "$selma" selfcheck --device "$device" --json
step train_tiny 300 bash -c train_tiny
step bench_sd15_512_b1 300 "$selma" bench sd15_512_b1 --device "$device" --precision bf16 --json
step bench_sd15_512_b4 300 "$selma" bench sd15_512_b4 --device "$device" --precision bf16 --json
step bench_sd15_512 300 "$selma" bench sd15_512 --device "$device" --precision bf16 --json
step bench 600 "$selma" bench --device "$device" --precision bf16 --json
step peers 900 bash -c peers
step sanitizer 900 bash -c sanitizer

# ---- the report ----
names=(doctor selfcheck_small selfcheck train_tiny bench_sd15_512_b1 bench_sd15_512_b4 bench_sd15_512 bench peers sanitizer)
{
    printf '{"first_contact": 1, "date": "%s", "steps": {' "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
    separator=""
    for name in "${names[@]}"; do
        at="$out/steps/$name"
        [ -f "$at.status" ] || continue
        printf '%s\n"%s": {"status": %s, "seconds": %s, ' "$separator" "$name" "$(tr -d '\n' < "$at.status" | json_string | sed 's/\\n"$/"/')" \
            "$(cat "$at.seconds" 2> /dev/null || echo null)"
        # A step that hung may have said nothing.
        printf '"stdout": %s, "stderr": %s}' "$(cat "$at.stdout" 2> /dev/null | json_string)" \
            "$(tail -c 20000 "$at.stderr" 2> /dev/null | json_string)"
        separator=","
    done
    printf '\n}}\n'
} > "$out/report.json"
{
    echo "# selma's first contact with this card"
    echo
    echo "| step | how it went | seconds |"
    echo "|---|---|---|"
    for name in "${names[@]}"; do
        at="$out/steps/$name"
        [ -f "$at.status" ] && echo "| $name | $(cat "$at.status") | $(cat "$at.seconds" 2> /dev/null) |"
    done
    for name in "${names[@]}"; do
        at="$out/steps/$name"
        [ -f "$at.status" ] || continue
        printf '\n## %s\n\n```text\n' "$name"
        # A fence inside would end this one; control characters have no place in a report.
        { tail -n 400 "$at.stdout"; tail -n 40 "$at.stderr"; } 2> /dev/null | tr -d '\000-\010\013-\037\177' | sed 's/```/` ` `/g'
        echo '```'
    done
} > "$out/report.md"
echo
echo "$out/report.md and $out/report.json say how it went."
failed=0
for name in "${names[@]}"; do
    status="$out/steps/$name.status"
    if [ -f "$status" ] && ! grep -Exq "ok|skipped" "$status"; then failed=1; fi
done
exit "$failed"
