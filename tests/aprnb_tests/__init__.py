"""What several tests build files with."""

import os
import platform

if platform.machine() in ("x86_64", "AMD64"):
    # Before torch is imported: one dtype and one set of kernels on every machine, also in processes that tests start.
    os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
