"""Own the hostile places of promise 8: pipes, devices and links where a run has files, and what `dlwp-runs` reads."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

from torture.hostile_corpus import CASES, DEEP, EVALUATE, REPLAY, RESUME, STEP, Evil, add, untouched, write

RUNS = ("runs", "run")


def pipe(path: Path) -> None:
    """Lay a pipe, in place of what is there."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


_STATE = str(STEP.relative_to("run") / "state.json")
for _file in ("config.yaml", "summary.json", "metrics.jsonl", "checkpoints/last", _STATE):
    _lay = lambda file=_file: pipe(Path("run") / file)  # noqa: E731
    add(f"{_file} a pipe", RESUME, _lay, f"'run/{_file}' is no regular file")
for _file in ("config.yaml", "summary.json", _STATE):
    _lay = lambda file=_file: _link(Path("run") / file, "/dev/zero")  # noqa: E731
    add(f"{_file} is /dev/zero", RESUME, _lay, f"'run/{_file}' is a link")
for _words in (EVALUATE, REPLAY):
    add(f"config.yaml a pipe: {_words[0]}", _words, lambda: pipe(Path("run/config.yaml")),
        "run/config.yaml' is no regular file")  # fmt: skip
    add(f"config.yaml is /dev/zero: {_words[0]}", _words, lambda: _link(Path("run/config.yaml"), "/dev/zero"),
        "run/config.yaml' is a link")  # fmt: skip
for _file in (".lock", "metrics.jsonl", "run.log", "tensorboard"):
    _lay = lambda file=_file: _link(Path("run") / file, str(Path("keep").resolve()))  # noqa: E731
    add(f"{_file} leads outside", RESUME, _lay, f"'run/{_file}' is a link")
add("summary.json nested", RESUME, lambda: write(Path("run/summary.json"), DEEP), None)
add("metrics.jsonl nested", RESUME, lambda: write(Path("run/metrics.jsonl"), DEEP + "\n"), None)
for _command in ("train resume=evil.pt", "evaluate checkpoint=evil.pt"):
    _lay = lambda: write(Path("evil.pt"), pickle.dumps(Evil()))  # noqa: E731
    add(f"a .pt file: {_command}", tuple(_command.split()), _lay, "no run 'evil.pt'")

# ---- what a table of runs leaves out, the rest being honest ---------------------------------------------------------

add("honest: runs in a table", RUNS, untouched, None)
add("honest: a run audited", ("runs", "audit", "run"), untouched, None)
for _file in ("config.yaml", "overrides.yaml", "environment.json", "summary.json", "metrics.jsonl"):
    add(f"{_file} a pipe: runs", RUNS, lambda file=_file: pipe(Path("run") / file), None)  # type: ignore[misc]
for _file in ("config.yaml", "overrides.yaml", "environment.json"):
    _lay = lambda file=_file: _link(Path("run") / file, "/dev/zero")  # noqa: E731
    add(f"{_file} is /dev/zero: runs", RUNS, _lay, None)
for _name in ("billion laughs", "nested 100,000 deep", "config of 50 MB", "python tag", "not text"):
    add(f"{_name}: runs", RUNS, CASES[_name].make, None)
add("environment.json nested: runs", RUNS, lambda: write(Path("run/environment.json"), DEEP), None)
for _lay, _how in ((pipe, "a pipe"), (lambda path: _link(path, "/dev/zero"), "/dev/zero")):
    add(f"audit.jsonl {_how}: runs audit", ("runs", "audit", "run"), lambda lay=_lay: lay(Path("run/audit.jsonl")),
        "run/audit.jsonl: no step is recorded")  # type: ignore[misc]  # fmt: skip
