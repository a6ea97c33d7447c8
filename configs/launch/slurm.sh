#!/usr/bin/env bash
# Training under Slurm, one task a GPU, on as many machines as the job has:
#
#   sbatch --nodes 2 --gpus-per-node 8 --ntasks-per-node 8 --cpus-per-task 12 --time 24:00:00 \
#       configs/launch/slurm.sh stage1 --config configs/paper/stage1-8gpu.yaml gradient_accumulation_steps=16
#
# Two minutes before the time is up, or before another job takes the machines, the run writes a
# checkpoint and ends; then the job is queued again and goes on from there.
#
# All machines see output_dir, the data and this environment at the same path.
#SBATCH --job-name vlv
#SBATCH --signal B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode append
set -uo pipefail

# What Slurm gives to srun's tasks, by the names that PyTorch knows.
# shellcheck disable=SC2016  # expanded by the tasks
task='
export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
export LOCAL_WORLD_SIZE=$((SLURM_NTASKS / SLURM_NNODES))
exec vlv train "$@"
'
# A job that was queued again goes on from its last checkpoint, also where it began from another.
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
    set -- "$@" resume_from_checkpoint=latest
fi
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# One job does not meet another on the same machine.
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

srun --kill-on-bad-exit=1 bash -c "$task" vlv "$@" &
run=$!

# The batch script gets the signal; srun passes it on to all tasks.
warnings=0
trap 'warnings=$((warnings + 1)); kill -USR1 "$run" 2>/dev/null' USR1 TERM
before=-1
while [ "$before" -ne "$warnings" ]; do
    # A trap ends `wait` early; then it has to wait again.
    before=$warnings
    wait "$run"
    status=$?
done

# 143 with a checkpoint; by the signal itself (128 and its number) before the first step and after
# the last one, where there is nothing new to save.
if [ "$warnings" -gt 0 ] && { [ "$status" -eq 143 ] || [ "$status" -eq $((128 + $(kill -l USR1))) ]; }; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
