"""`python -m dlwp`, `torchrun -m dlwp`: the same as `dlwp-train`. Knows nothing of what that does."""

from __future__ import annotations

import sys

from dlwp.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
