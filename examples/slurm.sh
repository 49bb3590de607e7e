#!/usr/bin/env bash
# One run of selma on a Slurm cluster: a task a skill for prompts and images, then a task an expert, then all the rest.
#
#   examples/slurm.sh PIPELINE.toml OUT SKILL... [all-in-one]
#
# OUT is a folder that all nodes share. The names are those of `skills` in the file; leave all-in-one out where the file says
# `all-in-one = false`, and add SKILL-selected for each skill where it has [select]. Tasks that are killed or requeued go on
# where they were; submitting again does only what is left. SBATCH_ACCOUNT, SBATCH_PARTITION and so on work as ever.
set -euo pipefail

# What each task may take. No GPU: GPUS= examples/slurm.sh ...
GPUS="${GPUS---gpus=1}"
CPUS="${CPUS:-8}"
TIME="${TIME:-24:00:00}"
# With [select] add select; where `selma run --dry-run` lists questions, add questions after prompts.
STAGES="${STAGES:-prompts images}"
SELMA="${SELMA:-selma}"

if [ "${1-}" = task ]; then
    shift
    pipeline=$1 out=$2 what=$3
    shift 3
    names=("$@")
    name="${names[${SLURM_ARRAY_TASK_ID:-0}]-}"
    case "$what" in
        data) for stage in $STAGES; do "$SELMA" run "$pipeline" --out "$out" --only "$stage" --skill "$name"; done ;;
        experts) "$SELMA" run "$pipeline" --out "$out" --only experts --skill "$name" ;;
        rest) "$SELMA" run "$pipeline" --out "$out" ;;
    esac
    exit
fi

if [ $# -lt 3 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
pipeline="$(realpath "$1")" out="$(realpath -m "$2")" script="$(realpath "$0")"
shift 2
skills=()
for name in "$@"; do
    case "$name" in all-in-one | *-selected) ;; *) skills+=("$name") ;; esac
done
mkdir -p "$out/logs"
export STAGES SELMA

# submit NAME OPTIONS... -- ARGUMENTS... prints the job's number.
submit() {
    local name=$1 options=() number=%j
    shift
    while [ "$1" != -- ]; do
        case "$1" in --array=*) number=%A_%a ;; esac
        options+=("$1")
        shift
    done
    shift
    # shellcheck disable=SC2086 # GPUS is empty or an option
    sbatch --parsable --job-name="selma-$name" --output="$out/logs/$name-$number.log" --cpus-per-task="$CPUS" --time="$TIME" \
        --requeue $GPUS "${options[@]}" "$script" task "$pipeline" "$out" "$name" "$@"
}

data="$(submit data --array="0-$((${#skills[@]} - 1))" -- "${skills[@]}")"
experts="$(submit experts --array="0-$(($# - 1))" --dependency="afterok:$data" --kill-on-invalid-dep=yes -- "$@")"
rest="$(submit rest --dependency="afterok:$experts" --kill-on-invalid-dep=yes --)"
echo "submitted $data (prompts and images), $experts (experts), $rest (merge, evaluation, report); logs in $out/logs"
