"""Own the door to torchvision: make `import torchvision` work where its compiled operators do not fit the torch.

Knows nothing of what is taken from torchvision. Models, transforms, datasets and weights need none of the compiled
operators, but the import registers shape functions for two of them and fails when their schemas are unknown
("operator torchvision::nms does not exist"; a CPU build of torch beside the registry's torchvision).
"""

from __future__ import annotations

import functools
import importlib.util

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None


@functools.cache
def ensure_importable() -> str:
    """Declare what torchvision's import needs, once, and return in a word which operators are in use.

    Call it before the first `import torchvision`. Returns "compiled" where torchvision's own operators load, else
    "declared" (models, transforms and data sets work; `torchvision.ops.nms` and its kin raise).
    """
    global _library
    if _compiled_operators_load():
        return "compiled"
    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _library.define(schema)
    return "declared"


def _compiled_operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return True  # nothing to mend: the import itself will say what is missing
    machinery = importlib.machinery
    finder = machinery.FileFinder(
        str(spec.submodule_search_locations[0]), (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES)
    )
    found = finder.find_spec("_C")
    if found is None or found.origin is None:
        return False
    try:
        torch.ops.load_library(found.origin)
    except (OSError, RuntimeError):
        return False
    return hasattr(torch.ops.torchvision, "nms")
