#!/usr/bin/env bash
# Training on several machines, without a scheduler. Start the same command on each of them:
#
#   NODES=2 GPUS=8 HOST=first-machine:29500 RUN_ID=stage1 \
#       configs/launch/torchrun.sh stage1 --config configs/paper/stage1-8gpu.yaml gradient_accumulation_steps=16
#
# NODES      machines; 1 if not set
# GPUS       processes on each of them, one a GPU; all GPUs if not set
# HOST       name and port of one of the machines, which the others reach
# RUN_ID     a name that no other run at HOST has at the same time
#
# All machines see output_dir, and the data, at the same path. A signal to any process stops all of
# them with a checkpoint, and the same commands go on from it.
set -euo pipefail

exec torchrun \
    --nnodes "${NODES:-1}" \
    --nproc-per-node "${GPUS:-gpu}" \
    --rdzv-backend c10d \
    --rdzv-endpoint "${HOST:-localhost:29500}" \
    --rdzv-id "${RUN_ID:-vlv}" \
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    -m vlv.cli train "$@"
