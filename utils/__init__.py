"""One noun a file; imports no task.

Scripts that compute import this before torch, for two settings of the process:
- OpenMP threads that wait sleep instead of spinning. On cores that are shared with other work, spinning made
  a training step 60 times slower (measured, 2 cores, one of them busy).
- glibc keeps memory that is freed instead of giving it back to the system after every forward pass, which is
  then asked for the same pages again, zeroed: predicting batches of 128 cutouts took 45 ms with this and
  takes 31 ms without.
"""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if hasattr(libc := ctypes.CDLL(None), "mallopt"):  # not on macOS
    libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest that it takes
    libc.mallopt(M_TRIM_THRESHOLD, 512 * 2**20)  # bytes that may be kept
