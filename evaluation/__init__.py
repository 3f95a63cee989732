"""What predictions are worth: figures of merit, thresholds, calibration, ensembles, the submission.
Imports data and utils, no task.
"""
