#!/bin/bash
{{options}}
# Made by `talr sweep launcher=slurm detach=true`. Your own: slurm.template=FILE, with these marks.
set -u +o posix
cd {{folder}} || exit 1
# Modules are loaded here.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
# By the address with which SLURM reaches it: where the processes of several nodes meet.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
head=$(scontrol show node "$head" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')

# SLURM says USR1 to this script alone before the time limit, or a preemption. The run is asked to
# end, writes a checkpoint, and goes on from it when the job starts again. A job that somebody else
# asks to end is not queued again.
out_of_time=
trap 'out_of_time=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
trap : TERM

for try in 1 2 3 4 5 6; do
    # A container: srun --container-image=IMAGE.sqsh, or `singularity exec --nv IMAGE.sif` before
    # the interpreter, and the interpreter of the image in the place of this one.
    srun --nodes={{nodes}} --ntasks={{nodes}} {{python}} {{arguments}} &
    step=$!
    while kill -0 "$step" 2>/dev/null; do wait "$step"; done # a signal ends a waiting
    wait "$step" # bash, unless it follows POSIX, keeps the code of what has ended
    code=$?
    [ "$code" = 75 ] && [ -z "$out_of_time" ] || break
    # In use: who was killed on another node counts as alive for two minutes.
    sleep 30 & # beside the script, which hears of its time limit meanwhile
    wait $!
    [ -z "$out_of_time" ] || break
    ! scontrol show job "$SLURM_JOB_ID" | grep -q Requeue=0 || break # `talr stop`
done

if [ -n "$out_of_time" ] && [ "$code" != 0 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt {{requeues}} ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
