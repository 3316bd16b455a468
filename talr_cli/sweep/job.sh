#!/bin/bash
{{options}}
# Made by `talr sweep launcher=slurm detach=true`; slurm.template=FILE uses your own template.
set -u +o posix
cd {{folder}} || exit 1
# Load modules here.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
# The address of the first node, where the processes of several nodes meet.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
head=$(scontrol show node "$head" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')

# SLURM sends USR1 to this script alone before the time limit or a preemption. The run is then asked
# to stop, writes a checkpoint, and resumes from it when the job starts again. A job that somebody
# else stops is not queued again.
out_of_time=
trap 'out_of_time=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
trap : TERM

for try in 1 2 3 4 5 6; do
    # For a container: srun --container-image=IMAGE.sqsh, or `singularity exec --nv IMAGE.sif`
    # before the interpreter, which is then that of the image.
    srun --nodes={{nodes}} --ntasks={{nodes}} {{python}} {{arguments}} &
    step=$!
    while kill -0 "$step" 2>/dev/null; do wait "$step"; done # a signal interrupts wait
    wait "$step" # except in POSIX mode, bash remembers the exit code
    code=$?
    [ "$code" = 75 ] && [ -z "$out_of_time" ] || break
    # In use: a process that was killed on another node counts as alive for two minutes.
    sleep 30 & # in the background, so that the script reacts to USR1
    wait $!
    [ -z "$out_of_time" ] || break
    ! scontrol show job "$SLURM_JOB_ID" | grep -q Requeue=0 || break # `talr stop`
done

if [ -n "$out_of_time" ] && [ "$code" != 0 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt {{requeues}} ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
