"""Train several configs, one after the other, as one process of several: `together.py FILE`, with RANK and so on set.

The file holds a JSON list of lists of words. What fails is told on stderr, and the next begins.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    """Train each."""
    from dlwp import api, distributed, joining
    from dlwp.config.compose import compose

    with joining.joined():
        for words in json.loads(Path(sys.argv[1]).read_text()):
            config = distributed.from_first(lambda words=words: compose(words))
            api.train_config(config)


if __name__ == "__main__":
    main()
