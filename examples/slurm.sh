#!/bin/bash
# Trains on several nodes of a SLURM cluster: sbatch examples/slurm.sh
# Submit it again after a time limit or a failed node: the run goes on from its newest state.
#SBATCH --job-name=dfmamba
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail

DATA=${DATA:?folder of the data set, for example InterHand2.6M}
OUT=${OUT:?folder of the run, on a file system that all nodes share}
FIRST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-backend c10d \
    --rdzv-endpoint "$FIRST:29500" \
    --rdzv-id "$SLURM_JOB_ID" \
    --max-restarts 3 \
    -m dfmamba train interhand26m --data "$DATA" --out "$OUT" --resume \
    --device cuda --precision bfloat16 --workers 6
