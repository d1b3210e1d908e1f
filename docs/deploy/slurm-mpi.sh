#!/bin/bash
# A text on four machines of a Slurm cluster, connected by MPI:
#   sbatch slurm-mpi.sh /shared/models/llama "Once upon a time"
# Rank 0 reads the model and sends the other machines their shards.
#SBATCH --job-name=dllama
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=01:00:00
#SBATCH --output=dllama-%j.txt
set -euo pipefail

model=${1:?usage: sbatch slurm-mpi.sh MODEL TEXT}
text=${2:?usage: sbatch slurm-mpi.sh MODEL TEXT}
# The kind of start-up that the MPI library speaks (srun --mpi=list): pmix for Open MPI, pmi2 for MPICH.
mpi=${DLLAMA_SLURM_MPI:-pmix}

srun --mpi="$mpi" --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    dllama run --transport mpi --threads "$SLURM_CPUS_PER_TASK" --model "$model" --prompt "$text"
