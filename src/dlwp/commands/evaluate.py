"""`dlwp-eval`: measure a run's best weights on a split of its data.

Knows nothing of how that is done: `dlwp.api.evaluate` does it.
"""

from __future__ import annotations

import argparse
import json

from dlwp import __version__
from dlwp.commands import entry
from dlwp.errors import ConfigError

_DESCRIPTION = """Measure a run's best weights on a split of its data.

  dlwp-eval checkpoint=outputs/latest               the test split
  dlwp-eval checkpoint=last split=val format=json   the newest run, for machines
  dlwp-eval checkpoint=RUN data.root=/d/x           other settings as in dlwp-train
"""


def main() -> int:
    """Run the command; return the exit status."""
    return entry.run(_evaluate)


def _evaluate() -> int:
    parser = argparse.ArgumentParser(
        prog="dlwp-eval", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"dlwp {__version__}")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="checkpoint=, split=, format= and settings")
    own = {"checkpoint": "", "split": "auto", "format": "text"}
    words = []
    for word in parser.parse_intermixed_args().settings:
        key, separator, value = word.partition("=")
        if separator and key in own:
            own[key] = value
        else:
            words.append(word)
    if not own["checkpoint"]:
        raise ConfigError("checkpoint must be given: checkpoint=RUN (a run folder, a checkpoint, or last)")
    if own["format"] not in ("text", "json"):
        raise ConfigError(f"format must be text or json, got '{own['format']}'")
    from dlwp import api

    found = api.evaluate(own["checkpoint"], split=own["split"], words=words)
    line = found.pop("line")
    print(json.dumps(found, indent=1) if own["format"] == "json" else f"{found['split']:<8} {line}")
    return 0
