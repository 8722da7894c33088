#!/usr/bin/env bash
# Runs a training on a Cloud TPU slice: creates it, installs this checkout on every worker, starts the
# run on all of them, follows it, brings the results back and deletes the slice.
#
#   launch/tpu_vm.sh COMMAND --name=NAME --zone=ZONE --type=TYPE --bucket=BUCKET [OPTION ...] [-- ARGUMENT ...]
#
# COMMAND
#   up        create, install, run, wait, fetch, delete; a slice that is taken away is created again and
#             the run resumes from its last checkpoint, up to --retries times
#   create    create the slice and wait until it is ready     run      start the run on all workers
#   install   copy this checkout to all workers, install it   wait     wait until the run has ended
#   logs      follow the first worker's output                fetch    copy the workdir from the bucket
#   status    print the state of slice and run                delete   delete the slice
#
# OPTION
#   --name=NAME       of the slice and of the run's workdir, runs/NAME in the bucket
#   --zone=ZONE       such as us-central1-a      --project=PROJECT   if not gcloud's default
#   --type=TYPE       such as v5litepod-16       --version=VERSION   of the TPU's software
#   --bucket=BUCKET   for the workdir: all workers write one checkpoint, and it outlives the slice
#   --spot            a slice that may be taken away, for less
#   --queued          ask for the slice in the queue instead of at once
#   --into=DIR        where fetch puts the workdir; default: runs
#   --poll=SECONDS    between looks at the run; default: 60
#   --retries=COUNT   how often a lost slice is created again; default: 20
#   --dry_run         print every command instead of running it
#
# ARGUMENTs go to `python -m effnets.main`, such as --config=configs/efficientnet.py:b0.
# Exit status: 0 if all went well; 2 for a mistake in the call; 1 if a step failed, which is named.
set -euo pipefail

usage() { sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0"; }
mistake() { echo "Error: $* See $0 --help." >&2; exit 2; }

command="${1:-}"
case "$command" in
  --help | -h) usage; exit 0 ;;
  up | create | install | run | wait | logs | status | fetch | delete) shift ;;
  "") mistake "COMMAND is missing: up, create, install, run, wait, logs, status, fetch or delete." ;;
  *) mistake "'$command' is not a command: up, create, install, run, wait, logs, status, fetch, delete." ;;
esac

name="" zone="" project="" type="" bucket="" into="runs"
version="v2-alpha-tpuv5-lite" spot=false queued=false dry_run=false poll=60 retries=20
arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    --name=?*) name="${1#*=}" ;;
    --zone=?*) zone="${1#*=}" ;;
    --project=?*) project="${1#*=}" ;;
    --type=?*) type="${1#*=}" ;;
    --version=?*) version="${1#*=}" ;;
    --bucket=?*) bucket="${1#*=}" ;;
    --into=?*) into="${1#*=}" ;;
    --poll=?*) poll="${1#*=}" ;;
    --retries=?*) retries="${1#*=}" ;;
    --spot) spot=true ;;
    --queued) queued=true ;;
    --dry_run) dry_run=true ;;
    --) shift; arguments=("$@"); break ;;
    *) mistake "'$1' is not an option; arguments of the run follow after --." ;;
  esac
  shift
done
bucket="${bucket#gs://}"

need() {
  local option
  for option in "$@"; do
    [ -n "${!option}" ] || mistake "--$option= is missing, which $command needs."
  done
}
need name zone
case "$command" in
  up) need type bucket ;;
  create) need type ;;
  run | fetch) need bucket ;;
esac
[[ "$poll" =~ ^[0-9]+$ ]] || mistake "--poll='$poll' should be a number of seconds."
[[ "$retries" =~ ^[0-9]+$ ]] || mistake "--retries='$retries' should be a number."
case "$command" in
  up | run) [ ${#arguments[@]} -gt 0 ] || mistake "the run's arguments are missing: -- --config=FILE[:ARG]." ;;
esac

where=("--zone=$zone")
[ -z "$project" ] || where+=("--project=$project")
here="$(cd "$(dirname "$0")/.." && pwd)"

# Prints a command that changes something, or runs it; says which step failed.
do_() {
  local step="$1"
  shift
  if $dry_run; then
    printf '%q ' "$@"
    echo
  else
    "$@" || { echo "Error: $step failed (exit status $?): $(printf '%q ' "$@")" >&2; return 1; }
  fi
}

on_all() { do_ "$1" gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all "--command=$2"; }

slice_state() {
  gcloud compute tpus tpu-vm describe "$name" "${where[@]}" --format='value(state)' 2>/dev/null || echo ABSENT
}

create() {
  local how=()
  ! $spot || how+=(--spot)
  if $queued; then
    do_ create gcloud compute tpus queued-resources create "$name" "--node-id=$name" "${where[@]}" \
      "--accelerator-type=$type" "--runtime-version=$version" ${how[@]+"${how[@]}"} || return 1
  else
    do_ create gcloud compute tpus tpu-vm create "$name" "${where[@]}" \
      "--accelerator-type=$type" "--version=$version" ${how[@]+"${how[@]}"} || return 1
  fi
  $dry_run && return
  local state
  until state="$(slice_state)"; [ "$state" = READY ]; do
    case "$state" in
      ABSENT) $queued || { echo "Error: create: the slice '$name' is gone." >&2; return 1; } ;;
      PREEMPTED | TERMINATED) echo "Error: create: the slice '$name' was taken away." >&2; return 1 ;;
    esac
    sleep "$poll"
  done
}

install() {
  on_all "install (folder)" "mkdir -p effnets" || return 1
  do_ "install (copy)" gcloud compute tpus tpu-vm scp --recurse --worker=all "${where[@]}" \
    "$here/setup.py" "$here/README.md" "$here/LICENSE" "$here/effnets" "$here/configs" "$name:effnets/" ||
    return 1
  on_all "install (packages)" "set -e; cd effnets; python3 -m venv .venv; .venv/bin/pip install -q -e '.[tpu]'" ||
    return 1
  [ -z "$bucket" ] || on_all "install (bucket)" \
    "mkdir -p bucket; mountpoint -q bucket || gcsfuse --implicit-dirs '$bucket' bucket"
}

# The workers of a slice find each other by themselves; only that there are several has to be said.
hosts() {
  if $dry_run; then
    echo HOSTS
  else
    gcloud compute tpus tpu-vm describe "$name" "${where[@]}" \
      --format="value[delimiter=' '](networkEndpoints.ipAddress)" | wc -w | tr -d ' '
  fi
}

run() {
  local count main
  count="$(hosts)" || return 1
  main="$(printf '%q ' .venv/bin/python -m effnets.main "${arguments[@]}" "--workdir=../bucket/runs/$name")"
  [ "$count" = 1 ] || main+=" --config.processes.count=$count"
  on_all run "cd effnets; rm -f ended; nohup sh -c $(printf '%q' "$main > run.log 2>&1; echo \$? > ended") \
> /dev/null 2>&1 &"
}

# Prints the run's exit status, or "running", or "lost" if the slice cannot be asked any more.
run_state() {
  case "$(slice_state)" in READY) ;; *) echo lost; return ;; esac
  gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=0 \
    --command='cat effnets/ended 2>/dev/null || echo running' 2>/dev/null || echo lost
}

wait_() {
  local state
  if $dry_run; then
    echo "# looks at the run every $poll s until it has ended"
    return
  fi
  while state="$(run_state)"; [ "$state" = running ]; do sleep "$poll"; done
  case "$state" in
    0) ;;
    lost | 75) return 3 ;; # 75: another worker stopped answering, see effnets/parallel/watch.py
    *) echo "Error: the run ended with exit status $state; '$0 logs' shows why." >&2; return 1 ;;
  esac
}

logs() {
  do_ logs gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=0 --command='tail -n 50 -F effnets/run.log'
}

fetch() {
  $dry_run || mkdir -p "$into"
  do_ fetch gcloud storage cp --recursive "gs://$bucket/runs/$name" "$into/"
}

delete() {
  if $queued; then
    do_ delete gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
  else
    do_ delete gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet
  fi
}

up() {
  local attempt status
  for ((attempt = 0; attempt <= retries; attempt++)); do
    status=0
    { create && install && run && wait_; } || status=$?
    if [ "$status" = 0 ]; then
      # What was computed is in the bucket: a failing copy must not keep the slice alive.
      fetch || status=1
      delete || status=1
      return "$status"
    fi
    if [ "$status" = 3 ] || [ "$(slice_state)" != READY ]; then
      echo "The slice '$name' was lost; creating it again ($((attempt + 1)) of $retries)." >&2
      delete 2>/dev/null || true
      continue
    fi
    echo "The slice '$name' is still there; delete it with '$0 delete' when you have seen why." >&2
    return 1
  done
  echo "Error: the slice '$name' was lost $((retries + 1)) times; the workdir is gs://$bucket/runs/$name." >&2
  return 1
}

case "$command" in
  status) echo "slice: $(slice_state), run: $(run_state)" ;;
  wait) wait_ ;;
  *) "$command" ;;
esac
