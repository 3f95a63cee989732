"""Surveys of 10^6 to 10^9 files in shards: the plan, the predictions, the proof that none is missing."""
