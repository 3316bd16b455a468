#!/bin/bash
# One run on the GPUs of one node: sbatch scripts/slurm_train.sh model=qwen3-4b method=talr lr=5e-6
#SBATCH --job-name=talr
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail
# exec: the signal that asks for a checkpoint must reach talr.
exec srun --ntasks=1 .venv/bin/talr train distributed=fsdp2 "$@"
