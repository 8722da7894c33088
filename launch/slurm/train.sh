#!/usr/bin/env bash
# Submits a training to a SLURM cluster with GPUs: one process for each GPU, as many nodes as wanted.
#
#   launch/slurm/train.sh --nodes=NODES --gpus=GPUS [OPTION ...] -- ARGUMENT ...
#
#   --nodes=NODES      how many               --gpus=GPUS       in each of them
#   --time=HH:MM:SS    limit of one job; default: 24:00:00
#   --python=PYTHON    interpreter with effnets[cuda], on a file system that all nodes see
#   --sbatch=FLAG      any other flag of sbatch, such as --sbatch=--partition=gpu; may be repeated
#   --dry_run          print the job instead of submitting it
#
# ARGUMENTs go to `python -m effnets.main`; --workdir= must be among them, on a shared file system. A
# minute before the limit, and when the job is taken off its nodes, the run saves a checkpoint and stops;
# the job is then queued again and resumes by itself.
# Exit status: 2 for a mistake in the call.
set -euo pipefail

mistake() { echo "Error: $* See $0 --help." >&2; exit 2; }

nodes="" gpus="" limit="24:00:00" python="python" dry_run=false flags=() arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    --help | -h) sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    --nodes=?*) nodes="${1#*=}" ;;
    --gpus=?*) gpus="${1#*=}" ;;
    --time=?*) limit="${1#*=}" ;;
    --python=?*) python="${1#*=}" ;;
    --sbatch=?*) flags+=("${1#*=}") ;;
    --dry_run) dry_run=true ;;
    --) shift; arguments=("$@"); break ;;
    *) mistake "'$1' is not an option; arguments of the run follow after --." ;;
  esac
  shift
done
for option in nodes gpus; do
  [[ "${!option}" =~ ^[1-9][0-9]*$ ]] || mistake "--$option='${!option}' should be a number from 1."
done
case " ${arguments[*]-} " in
  *" --workdir="*) ;;
  *) mistake "the run's arguments need --workdir=DIR on a file system that all nodes see: -- --workdir=DIR." ;;
esac

total=$((nodes * gpus))
[ "$total" = 1 ] || arguments+=("--config.processes.count=$total")
job="#!/usr/bin/env bash
srun --kill-on-bad-exit=1 $(printf '%q ' "$python" -m effnets.main "${arguments[@]}") &
trap 'kill -TERM \$!; wait \$!; scontrol requeue \$SLURM_JOB_ID' USR1 TERM
wait \$!"
submit=(sbatch "--nodes=$nodes" "--ntasks-per-node=$gpus" "--gpus-per-task=1" "--time=$limit" --requeue
  "--signal=B:USR1@60" "--job-name=effnets" ${flags[@]+"${flags[@]}"})
if $dry_run; then
  printf '%q ' "${submit[@]}"
  printf '<<JOB\n%s\nJOB\n' "$job"
else
  "${submit[@]}" <<< "$job"
fi
