# What a site and a challenge differ in. Edit here, or set the variables in the environment; every sheet sources this.
: "${DATA:=data}"                        # folder with slsim_lenses, slsim_nonlenses, hsc_lenses, hsc_nonlenses
: "${BLIND:=}"                           # folder of the unlabelled test cutouts; empty: the test split of DATA
: "${RUNS:=runs}"                        # run directories, predictions and the submission go here
: "${STORES:=stores}"                      # FITS files are packed here, once for all runs
: "${CONFIG:=run_sheets/nano.yaml}"      # recipe
: "${SEEDS:=42 101 202 303 404}"         # one run each
: "${EXTRA:=}"                           # more flags for train.py
: "${WALLTIME:=72:00:00}"                # of one training job
: "${MAX_TIME:=71:50:00}"                # train.py stops with a checkpoint after this; a little less than WALLTIME
: "${LINKS:=3}"                          # PBS: how many training jobs may follow each other until a seed is done
: "${GPUS:=1}"                           # of a training job; more than 1 runs torchrun
: "${CPUS:=8}"                           # of a job
: "${MEMORY:=32gb}"                      # of a job
: "${QUEUE:=}"                           # queue or partition; empty: the site's default
: "${PYTHON:=.venv/bin/python}"          # interpreter with requirements.txt installed
: "${PREPARE:=true}"                     # a command before each job, such as: module load cuda
