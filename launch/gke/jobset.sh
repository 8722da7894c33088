#!/usr/bin/env bash
# Starts a training on slices of TPUs in a GKE cluster, one or several, as a JobSet.
#
#   launch/gke/jobset.sh --name=NAME --image=IMAGE --accelerator=KIND --topology=SHAPE --hosts=HOSTS
#                        --claim=CLAIM [OPTION ...] -- ARGUMENT ...
#
#   --image=IMAGE       container image with effnets[tpu]
#   --accelerator=KIND  node label, such as tpu-v5-lite-podslice    --topology=SHAPE  such as 4x4
#   --hosts=HOSTS       machines of one slice                       --chips=CHIPS     of one machine; default: 4
#   --slices=SLICES     how many slices train together; default: 1
#   --claim=CLAIM       persistent volume claim (ReadWriteMany) for the workdir, runs/NAME in it
#   --restarts=COUNT    how often a failed job is started again, to resume; default: 20
#   --dry_run           print the JobSet instead of applying it
#
# ARGUMENTs go to `python -m effnets.main`. Exit status: 2 for a mistake in the call.
set -euo pipefail

mistake() { echo "Error: $* See $0 --help." >&2; exit 2; }

name="" image="" accelerator="" topology="" hosts="" claim="" chips=4 slices=1 restarts=20
dry_run=false arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    --help | -h) sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    --name=?*) name="${1#*=}" ;;
    --image=?*) image="${1#*=}" ;;
    --accelerator=?*) accelerator="${1#*=}" ;;
    --topology=?*) topology="${1#*=}" ;;
    --hosts=?*) hosts="${1#*=}" ;;
    --chips=?*) chips="${1#*=}" ;;
    --slices=?*) slices="${1#*=}" ;;
    --claim=?*) claim="${1#*=}" ;;
    --restarts=?*) restarts="${1#*=}" ;;
    --dry_run) dry_run=true ;;
    --) shift; arguments=("$@"); break ;;
    *) mistake "'$1' is not an option; arguments of the run follow after --." ;;
  esac
  shift
done
for option in name image accelerator topology claim; do
  [ -n "${!option}" ] || mistake "--$option= is missing."
done
for option in hosts chips slices restarts; do
  [[ "${!option}" =~ ^[1-9][0-9]*$ ]] || mistake "--$option='${!option}' should be a number from 1."
done
[[ "$name" =~ ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$ ]] || mistake "--name='$name' should be lower-case letters, digits and dashes."
[ ${#arguments[@]} -gt 0 ] || mistake "the run's arguments are missing: -- --config=FILE[:ARG]."

count=$((hosts * slices))
[ "$count" = 1 ] || arguments+=("--config.processes.count=$count")
# Strings of JSON are strings of YAML.
quoted() {
  local text
  for text in "$@"; do
    text="${text//\\/\\\\}"
    printf '"%s", ' "${text//\"/\\\"}"
  done
}
jobset="apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $restarts
  replicatedJobs:
    - name: slice
      replicas: $slices
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          backoffLimit: 0
          template:
            spec:
              restartPolicy: Never
              hostNetwork: true
              dnsPolicy: ClusterFirstWithHostNet
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $accelerator
                cloud.google.com/gke-tpu-topology: $topology
              containers:
                - name: effnets
                  image: $image
                  command: [$(quoted python -m effnets.main "${arguments[@]}" "--workdir=/workdir/runs/$name")]
                  ports:
                    - containerPort: 8471
                    - containerPort: 8080
                  resources:
                    limits:
                      google.com/tpu: $chips
                  volumeMounts:
                    - name: workdir
                      mountPath: /workdir
              volumes:
                - name: workdir
                  persistentVolumeClaim:
                    claimName: $claim"
if $dry_run; then
  printf '%s\n' "$jobset"
else
  kubectl apply -f - <<< "$jobset"
fi
