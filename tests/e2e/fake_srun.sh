#!/bin/bash
# Stands in for Slurm: as `srun` it starts the tasks with the variables that Slurm sets, each in a process group of its
# own, and answers their largest exit code; as `scontrol` it only writes down what it was asked.
# $FAKE_SLURM holds one file a call and a task, the task's with its process id.
set -u
if [ "$(basename "$0")" = scontrol ]; then
    echo "$*" >>"$FAKE_SLURM/scontrol"
    exit 0
fi
step=$(cat "$FAKE_SLURM/steps" 2>/dev/null || echo 0)
echo $((step + 1)) >"$FAKE_SLURM/steps"
tasks=1
cpus=1
while [[ ${1:-} == --* ]]; do
    case $1 in
    --ntasks=*) tasks=${1#*=} ;;
    --cpus-per-task=*) cpus=${1#*=} ;;
    esac
    shift
done
pids=()
told=
trap 'told=1; for pid in "${pids[@]}"; do kill -TERM -- "-$pid" 2>/dev/null; done' TERM
for ((rank = 0; rank < tasks; rank++)); do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NODEID=0 SLURM_NTASKS=$tasks SLURM_NPROCS=$tasks \
        SLURM_STEP_ID=$step SLURM_STEPID=$step SLURM_STEP_NUM_TASKS=$tasks SLURM_STEP_NUM_NODES=1 \
        SLURM_STEP_NODELIST=localhost SLURM_STEP_TASKS_PER_NODE=$tasks SLURM_CPUS_PER_TASK=$cpus \
        SLURM_LAUNCH_NODE_IPADDR=127.0.0.1 setsid "$@" &
    pids+=($!)
    echo $! >"$FAKE_SLURM/step-$step-task-$rank"
done
worst=0
for pid in "${pids[@]}"; do
    told=1
    while [ -n "$told" ]; do
        told=
        wait "$pid"
        code=$?
    done
    worst=$((code > worst ? code : worst))
done
exit "$worst"
