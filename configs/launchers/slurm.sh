#!/bin/bash
# A search on two machines with eight GPUs each: sbatch configs/launchers/slurm.sh, in the repository
# Two minutes before the job ends or is pre-empted it is asked to stop; queued again, it goes on.
#SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=64
#SBATCH --requeue --signal=TERM@120
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes="$SLURM_NNODES" --nproc-per-node=8 --max-restarts=100 \
  --rdzv-backend=c10d --rdzv-endpoint="$host:29400" --rdzv-id="$SLURM_JOB_ID" \
  -m proxyless_ext search --config configs/imagenet_gpu.yaml --data /shared/imagenet \
  --out /shared/runs/imagenet --auto-resume
