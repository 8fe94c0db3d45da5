"""How long the import of a module takes, with torch and all else that it imports."""

from __future__ import annotations

import importlib
import json
import sys
import time


def main(module: str) -> None:
    """Import a module, in a process where nothing is imported yet, and print the seconds."""
    began = time.perf_counter()
    from dlwp import torchvision_ops

    torchvision_ops.ensure_importable()  # which imports torch, and lets torchvision be imported
    importlib.import_module(module)
    print(json.dumps({"s": time.perf_counter() - began}))


if __name__ == "__main__":
    main(sys.argv[1])
