#!/bin/bash
# The same without MPI: workers on all machines but the first, which is the root.
#   sbatch slurm-sockets.sh /shared/models/llama "Once upon a time"
#SBATCH --job-name=dllama
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=01:00:00
#SBATCH --output=dllama-%j.txt
set -euo pipefail

model=${1:?usage: sbatch slurm-sockets.sh MODEL TEXT}
text=${2:?usage: sbatch slurm-sockets.sh MODEL TEXT}
port=${DLLAMA_PORT:-$((20000 + SLURM_JOB_ID % 20000))} # two jobs may share a machine
# A secret for this job alone. srun hands the environment on to the workers.
DLLAMA_SECRET=$(dllama secret)
export DLLAMA_SECRET

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
others=("${hosts[@]:1}")
addresses=("${others[@]/%/:$port}")

step() { # HOSTS NUMBER COMMAND...: one task on each of so many hosts
    srun --nodelist="$1" --nodes="$2" --ntasks="$2" --ntasks-per-node=1 \
        --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 "${@:3}"
}

list=$(IFS=, && echo "${others[*]}")
# Each worker listens at the address of its own machine.
export port
step "$list" "${#others[@]}" bash -c \
    'exec dllama worker --listen "$SLURMD_NODENAME:$port" --threads "$SLURM_CPUS_PER_TASK" --once' &
for host in "${others[@]}"; do # until all listen, for a minute at most
    for _ in {1..120}; do
        (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null && break
        sleep 0.5
    done
done
step "${hosts[0]}" 1 \
    dllama run --workers "${addresses[@]}" --threads "$SLURM_CPUS_PER_TASK" --model "$model" --prompt "$text"
wait
