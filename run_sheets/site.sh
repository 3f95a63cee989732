# What a site and a challenge differ in. Edit here, or set the variables in the environment; every sheet sources this.
: "${DATA:=data}"                        # folder with slsim_lenses, slsim_nonlenses, hsc_lenses, hsc_nonlenses
: "${BLIND:=}"                           # folder of the unlabelled test cutouts; empty: the test split of DATA
: "${RUNS:=runs}"                        # run directories, predictions and the submission go here
: "${STORES:=stores}"                      # FITS files are packed here, once for all runs
: "${CONFIG:=run_sheets/nano.yaml}"      # recipe
: "${NETWORKS:=}"                        # instead of CONFIG several: names of run_sheets/<name>.yaml, one ensemble of all (advanced_ensemble.sh)
: "${CALIBRATE:=none}"                   # of the ensemble: none, temperature, vector or isotonic, fitted on validation
: "${SEEDS:=42 101 202 303 404}"         # one run each, of each recipe
: "${EXTRA:=}"                           # more flags for train.py
: "${WALLTIME:=72:00:00}"                # of one training job, [days-]hours:minutes:seconds
: "${MAX_TIME:=}"                        # train.py stops with a checkpoint after this; empty: WALLTIME less 10 minutes (or less a tenth, if that is less)
: "${LINKS:=3}"                          # PBS: how many training jobs may follow each other until a seed is done
: "${GPUS:=1}"                           # of a training job on each node; more than 1 runs torchrun, 0: CPUs
: "${NODES:=1}"                          # of a training job; more than 1 runs torchrun on each, which meet at the first of them
: "${PREDICT_GPUS:=0}"                   # of a prediction; the ensemble and packing have none
: "${CPUS:=8}"                           # of a job, on each node
: "${MEMORY:=32gb}"                      # of a job, on each node
: "${PACK:=1}"                           # 0: no job that packs before the seeds, which then pack themselves
: "${STORE_WALLTIME:=12:00:00}"          # of the job that packs
: "${QUEUE:=}"                           # queue or partition; empty: the site's default
: "${CPU_QUEUE:=$QUEUE}"                 # that of jobs without a GPU
: "${ACCOUNT:=}"                         # account or project that pays
: "${QOS:=}"                             # quality of service (Slurm, Torque with Moab)
: "${SCHEDULER_FLAGS:=}"                 # more flags for each sbatch or qsub, such as --constraint=a100 or -l place=excl
: "${PYTHON:=.venv/bin/python}"          # interpreter with requirements.txt installed
: "${PREPARE:=true}"                     # a command before each job, such as: module load cuda; or: conda activate starloop (with PYTHON=python)
: "${LAUNCH:=}"                          # before each python, such as: apptainer exec --nv starloop.sif (with PYTHON=python)
: "${NODE_LAUNCH:=}"                     # what starts one command on each node of a job; empty: srun, or pbsdsh
: "${CHECK:=1}"                          # 0: submit without looking whether data, interpreter and account are there
: "${DIALECT:=}"                         # slurm, pbspro or torque; submit.sh says it to its jobs
: "${HF_HUB_OFFLINE:=1}"                 # compute nodes often have no internet: nothing waits for it; what must be downloaded is, beforehand

# shellcheck disable=SC2034  # the sheets that source this export them
SITE=(DATA BLIND RUNS STORES CONFIG NETWORKS CALIBRATE SEEDS EXTRA WALLTIME MAX_TIME LINKS GPUS NODES PREDICT_GPUS CPUS MEMORY PACK
    STORE_WALLTIME QUEUE CPU_QUEUE ACCOUNT QOS SCHEDULER_FLAGS PYTHON PREPARE LAUNCH NODE_LAUNCH CHECK DIALECT HF_HUB_OFFLINE)

# [days-]hours:minutes:seconds -> seconds, or nothing for what is none.
seconds_of_walltime() {
    [[ $1 =~ ^(([0-9]+)-)?([0-9]+):([0-9]{2}):([0-9]{2})$ ]] || return 1
    echo $((10#${BASH_REMATCH[2]:-0} * 86400 + 10#${BASH_REMATCH[3]} * 3600 + 10#${BASH_REMATCH[4]} * 60 + 10#${BASH_REMATCH[5]}))
}

# seconds -> hours:minutes:seconds, which every scheduler takes
walltime_of() { printf '%02d:%02d:%02d\n' $(($1 / 3600)) $(($1 / 60 % 60)) $(($1 % 60)); }

if [ -z "$MAX_TIME" ]; then
    seconds=$(seconds_of_walltime "$WALLTIME") || { echo "site.sh: WALLTIME '$WALLTIME': expected [days-]hours:minutes:seconds, such as 72:00:00" >&2; exit 2; }
    margin=$((seconds / 10 < 600 ? seconds / 10 : 600))
    MAX_TIME=$(walltime_of $((seconds - margin)))
fi

# PREPARE: `module` is made known where a job's shell has none; conda's own scripts use variables that are not set.
prepare() {
    local file code=0
    set +u
    if ! type module > /dev/null 2>&1; then
        for file in /etc/profile.d/lmod.sh /etc/profile.d/modules.sh /etc/profile.d/z00_lmod.sh; do
            # shellcheck disable=SC1090  # the site's own
            if [ -r "$file" ]; then source "$file"; break; fi
        done
    fi
    eval "$PREPARE" || code=$?
    set -u
    return $code
}

# Fills `site_flags` with what every job of a scheduler is given. $1: slurm, pbspro or torque
flags_of_site() {
    site_flags=()
    case $1 in
    slurm)
        [ -n "$ACCOUNT" ] && site_flags+=(--account="$ACCOUNT")
        [ -n "$QOS" ] && site_flags+=(--qos="$QOS")
        ;;
    pbspro)
        [ -n "$ACCOUNT" ] && site_flags+=(-A "$ACCOUNT")
        [ -n "$QOS" ] && { echo "QOS '$QOS': PBS Pro has none; it is the queue that says it (QUEUE)" >&2; exit 2; }
        ;;
    torque)
        [ -n "$ACCOUNT" ] && site_flags+=(-A "$ACCOUNT")
        [ -n "$QOS" ] && site_flags+=(-l "qos=$QOS")
        ;;
    esac
    # shellcheck disable=SC2206  # several words
    [ -n "$SCHEDULER_FLAGS" ] && site_flags+=($SCHEDULER_FLAGS)
    return 0
}
