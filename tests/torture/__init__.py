"""The promises of a run, each tried until it breaks: `scripts/torture`; the tests run the fast form of the same."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: other numbers of threads give other last bits
