"""One noun a file; imports no task.

Scripts that compute import this before torch: OpenMP threads that wait then sleep instead of spinning. On cores that are
shared with other work, spinning made a training step 60 times slower (measured, 2 cores, one of them busy).
"""
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
