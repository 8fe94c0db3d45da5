"""One process of several that train together, as `dlwp.launching` starts it: `python -m dlwp.commands.work FILE`.

Knows nothing of how it came to be one of several.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dlwp import failures, joining, launching


def main() -> int:
    """Do this process's part. What goes wrong is handed back: then who started it has what to tell."""
    try:
        config, run_dir = launching.handed(Path(sys.argv[1]))
        from dlwp import api

        with joining.joined():
            api.train_config(config, run_dir=run_dir)
    except Exception as error:  # any error: this is the outermost place
        launching.hand_back(*failures.words_of(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
