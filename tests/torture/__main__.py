"""Own the command `scripts/torture`: which promises, how hard, the bar, the table, the exit status."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torture
from torture import kit

_IMPORTED = (
    "torch", "torch._dynamo", "torch.utils.tensorboard", "matplotlib.backends.backend_agg", "dlwp.api", "dlwp.build",
    "dlwp.commands.train", "dlwp.config.compose", "dlwp.observers.plots", "dlwp.observers.tensorboard",
    "dlwp.rehearsal", "dlwp.training.trainer",
)  # fmt: skip
"""What a run imports, `torch._dynamo` with its first optimizer (half the time of a tiny run)."""


def promises() -> list[kit.Promise]:
    """Return the promises of all modules here (their PROMISES), in order of their numbers."""
    found: list[kit.Promise] = []
    for module in pkgutil.iter_modules(torture.__path__):
        if module.name != "__main__":
            found += getattr(importlib.import_module(f"torture.{module.name}"), "PROMISES", [])
    return sorted(found, key=lambda one: one.number)


def main(words: list[str]) -> int:
    """Run what the words ask for; return 1 if any promise is broken."""
    known = {promise.name: promise for promise in promises()}
    parser = argparse.ArgumentParser(prog="scripts/torture", description="Try to break every promise of a run.")
    parser.add_argument("names", nargs="+", metavar="PROMISE", choices=[*known, "all"], help=f"all, {', '.join(known)}")
    parser.add_argument("--short", action="store_const", const="short", dest="level", help="all in 15 min on two cores")
    parser.add_argument("--fast", action="store_const", const="fast", dest="level", help="what the tests run")
    parser.add_argument("--tries", "--kills", type=int, help="in place of the numbers that the promises name")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="tries at a time (the processor's cores)")
    found = parser.parse_args(words)
    scale = kit.Scale(found.level or "full", found.tries, found.seed)
    chosen = list(known.values()) if "all" in found.names else [known[name] for name in dict.fromkeys(found.names)]
    _prepare()
    width = max(len(promise.name) for promise in chosen)
    began, kept = time.monotonic(), True
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder is removed
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        _own_account(Path(folder))
        for promise in chosen:
            result = kit.run(promise, scale, Path(folder) / promise.name, found.workers, _bar(promise))
            kept &= result.is_kept
            _tell(promise, result, width)
    verdict = "no failure" if kept else "BROKEN"
    print(f"{verdict} · {scale.level} · seed {scale.seed} · {time.monotonic() - began:.0f} s")
    return 0 if kept else 1


def _prepare() -> None:
    """Import what every try needs, once, before any is forked."""
    for name in _IMPORTED:
        importlib.import_module(name)


def _own_account(folder: Path) -> None:
    for name in ("STATE", "CONFIG", "CACHE"):
        os.environ[f"XDG_{name}_HOME"] = str(folder / "account" / name.lower())
    os.environ["MPLCONFIGDIR"] = str(folder / "account" / "matplotlib")
    os.environ["TORTURE_SHARED"] = str(folder / "shared")
    (folder / "shared").mkdir()


def _bar(promise: kit.Promise) -> kit.Callable[[int, int], None] | None:
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        filled = 30 * done // total
        text = f"\r{promise.name:<22} {'█' * filled}{'·' * (30 - filled)} {done}/{total}"
        print(text + ("\r\x1b[K" if done == total else ""), end="", file=sys.stderr, flush=True)

    return show


def _tell(promise: kit.Promise, result: kit.Result, width: int) -> None:
    verdict = "kept" if result.is_kept else "BROKEN"
    print(
        f"{promise.number:>2}  {promise.name:<{width}}  {verdict:<6}  tries {result.tries:>4,}  "
        f"failures {len(result.failures):>3}  control {result.controls_broke}/{result.controls} broke  "
        f"{result.elapsed_s:>5.0f} s" + (f"  skipped {len(result.skipped)}" if result.skipped else ""),
        flush=True,
    )
    for name, text in result.failures[:10]:
        lines = text.strip().splitlines() or [""]
        print(f"      {name}: {lines[-1] if 'Traceback' in text else lines[0]}", flush=True)
        if "Traceback" in text:
            print("\n".join(f"        {line}" for line in lines[-12:]), flush=True)
    for reason in sorted({text for _, text in result.skipped}):
        print(f"      skipped: {reason}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
