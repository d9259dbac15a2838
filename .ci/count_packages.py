"""Print how many packages an installation without extras resolves to; fail above the limit given as argument.

pip is not counted, nor are the accelerator libraries that torch brings only in its CUDA builds.
"""

import sys
from importlib.metadata import distributions

ACCELERATOR = ("nvidia-", "cuda-", "triton")

limit = int(sys.argv[1])
names = sorted({distribution.name.lower() for distribution in distributions()} - {"pip"})
counted = [name for name in names if not name.startswith(ACCELERATOR)]
print(f"{len(counted)} packages without extras (limit {limit}), {len(names) - len(counted)} accelerator libraries")
print(" ".join(counted))
sys.exit(len(counted) > limit)
