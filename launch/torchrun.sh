#!/usr/bin/env bash
# A run under torchrun: bash launch/torchrun.sh CONFIG RUN_DIR [arguments of lidit train]
# RANKS processes a host (one a GPU), NODES hosts: start it on each of them, with the same RENDEZVOUS (HOST:PORT of one of
# them) and the same LIDIT_RENDEZVOUS_SECRET. One host needs neither. RESTARTS: how often a broken run begins again.
set -euo pipefail
config=${1:?name a config} run_dir=${2:?name a run directory}
shift 2
nodes=${NODES:-1}
if [ "$nodes" = 1 ]; then
    meeting=(--standalone)
    LIDIT_RENDEZVOUS_SECRET=${LIDIT_RENDEZVOUS_SECRET:-$(od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n')}
else
    : "${LIDIT_RENDEZVOUS_SECRET:?set it to the same random text on every host, such as from openssl rand -hex 32}"
    meeting=(--nnodes "$nodes" --rdzv-backend c10d --rdzv-endpoint "${RENDEZVOUS:?set it to HOST:PORT}")
fi
export LIDIT_RENDEZVOUS_SECRET
exec torchrun --no-python "${meeting[@]}" --nproc-per-node "${RANKS:?how many processes a host}" \
    --max-restarts "${RESTARTS:-3}" "${LIDIT:-lidit}" train "$config" --run-dir "$run_dir" --resume "$@"
