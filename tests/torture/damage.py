"""Promise 4: a changed, cut, lengthened or missing file of a checkpoint is found and named, whoever reads it.

An older checkpoint is taken only where the person asked for it (resume_fallback=true), and then the run says so.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torture import kit
from torture.commands import fail, succeed
from torture.kit import Promise, Scale, Trial, require, require_equal
from torture.small_run import weights

RUN = (
    "data=synthetic", "data.num_train=20", "data.num_val=10", "data.num_test=10", "data.shape=[3,8,8]",
    "data.batch_size=10", "model=linear", "scheduler=constant", "trainer.epochs=3", "trainer.checkpoint_every=2 steps",
    "trainer.keep_last=3", "logger.tensorboard=false", "logger.plots=false", "run_dir=run",
)  # fmt: skip
RUNS = {
    "averaged": ("trainer.ema_decay=0.9", "trainer.keep_best=false"),
    "raw": ("trainer.keep_best=false",),
    "best": ("trainer.ema_decay=0.9", "trainer.monitor=val/loss"),
}
"""What a run keeps, by what it adds to `RUN`."""
GO_ON = ("resume=run", "trainer.epochs=4")
NEWEST, BEFORE = "step-00000006", "step-00000004"
FILES = (
    "MANIFEST.json", "config.yaml", "ema.safetensors", "model.safetensors", "optimizer.safetensors", "state.json"
)  # fmt: skip
NEVER_EVALUATED = ("model.safetensors", "optimizer.safetensors")
"""What `dlwp-eval` does not read where averaged weights are kept; without them it reads the first."""
KINDS = {"flip": 300, "cut": 100, "zero": 50, "lengthen": 25, "delete": 25}
"""How a file is harmed, and how often of 500."""

Patch = Callable[[], None]


def whole_run(folder: Path, kept: str = "averaged") -> Path:
    """Lay an unharmed run of 6 steps, with the words of `RUNS`, into a folder, with checkpoints of steps 2, 4 and 6."""
    made = kit.once(f"damage-run-{kept}", lambda place: succeed(*RUN, *RUNS[kept], folder=place) and None)
    shutil.copytree(made / "run", folder / "run", dirs_exist_ok=True)
    return folder / "run"


def expected_weights(kept: str = "averaged") -> dict[str, str]:
    """Return the weights of the run that went on from there, unharmed."""

    def make(place: Path) -> None:
        whole_run(place, kept)
        succeed(*GO_ON, folder=place)

    return weights(kit.once(f"damage-gone-on-{kept}", make) / "run")


def harm(path: Path, kind: str, chance: random.Random) -> str:
    """Harm a file, and return what was done to it in words."""
    data = path.read_bytes()
    if kind == "delete":
        path.unlink()
        return "deleted"
    if kind == "flip":
        at, bit = chance.randrange(len(data)), chance.randrange(8)
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        return f"bit {bit} of byte {at} of {len(data)} flipped"
    if kind == "cut":
        path.write_bytes(data[: (length := chance.randrange(len(data)))])
        return f"cut to {length} of {len(data)} bytes"
    if kind == "lengthen":
        path.write_bytes(data + (more := chance.randbytes(chance.randint(1, 100))))
        return f"lengthened by {len(more)} bytes"
    at = chance.randrange(0, len(data), 4096)
    path.write_bytes(data[:at] + bytes(min(4096, len(data) - at)) + data[at + 4096 :])
    return f"4 KiB from byte {at} of {len(data)} zeroed"


def loaded(
    seed: int, names: Sequence[str] = FILES, kinds: Sequence[str] = tuple(KINDS), patch: Patch | None = None
) -> Trial:
    """Return the try of one mutation of each kind on each file, read without a command."""

    def do(folder: Path) -> int:
        from dlwp import checkpoint
        from dlwp.errors import DataError

        if patch is not None:
            patch()
        chance = random.Random(seed)
        for name in names:
            for kind in kinds:
                step = whole_run(folder) / "checkpoints" / NEWEST
                done = harm(step / name, kind, chance)
                try:
                    checkpoint.load(step)
                except DataError as error:
                    _require_named(str(error), f"{NEWEST}/{name}", f"{name} {done}")
                except Exception as error:  # any error: it is one of what reads the bytes, which nobody has looked at
                    raise kit.Broken(f"{name} {done}: {type(error).__name__}: {error}") from error
                else:
                    raise kit.Broken(f"{name} {done}: it is read as if whole")
                shutil.rmtree(folder / "run")
        return len(names) * len(kinds)

    return Trial("each file harmed in each way", do)


def _require_named(text: str, file: str, where: str) -> None:
    require(file in text, f"{where}: the file is not named: {text.strip()[-300:]}")
    require("step 4" in text or BEFORE in text, f"{where}: the newest whole one is not named: {text.strip()[-300:]}")


def commanded(
    harms: list[tuple[str, str]], seed: object, patch: Patch | None = None, fresh: bool = False,
    kept: str = "averaged",
) -> Trial:  # fmt: skip
    """Return the try of files harmed in some ways, met by dlwp-train and dlwp-eval."""
    options: dict[str, Any] = {"fresh": fresh} if patch is None else {"before": patch}

    def do(folder: Path) -> int:
        chance = random.Random(str(seed))
        expected = expected_weights(kept)
        for number, (name, kind) in enumerate(harms):
            place = folder / f"{number}"
            run = whole_run(place, kept)
            where = f"{name} {harm(run / 'checkpoints' / NEWEST / name, kind, chance)}"
            try:
                before = _record(run)
                _require_named(fail(3, *GO_ON, folder=place, **options), f"{NEWEST}/{name}", where)
                one = f"run/checkpoints/{NEWEST}"
                said = fail(3, f"resume={one}", "trainer.epochs=4", folder=place, **options)
                _require_named(said, f"{NEWEST}/{name}", where)
                word = "checkpoint=run" if number % 2 else f"checkpoint={one}"
                _require_evaluation(place, word, name, f"{where}, dlwp-eval", options, kept)
                require_equal(_record(run), before, "a refused resume has changed the run's records")
                _require_fallback(place, f"{NEWEST}/{name}", expected, options)
            except kit.Broken as error:
                raise kit.Broken(f"{where}: {error}") from error
            shutil.rmtree(place)
        return len(harms)

    return Trial(f"dlwp-train and dlwp-eval meet {len(harms)} harmed files, {seed}, {kept}", do, 1800)


def _record(run: Path) -> dict[str, str]:
    steps = {path.name: "there" for path in (run / "checkpoints").iterdir()}
    return {"metrics": (run / "metrics.jsonl").read_text(), **steps}


def _require_evaluation(place: Path, word: str, name: str, where: str, options: dict[str, Any], kept: str) -> None:
    """Require of dlwp-eval that it finds the damage, or does not read what it has no need of."""
    if name in (NEVER_EVALUATED[1:] if kept == "raw" else NEVER_EVALUATED):
        made = kit.once(f"damage-evaluated-{kept}", lambda made: whole_run(made, kept) and None)
        expected = made / "run"
        whole = succeed(f"checkpoint={expected}", "plots=false", name="evaluate", folder=place)
        found = succeed(word, "plots=false", name="evaluate", folder=place, **options)
        require_equal(found.splitlines()[-1], whole.splitlines()[-1], where)
    else:
        _require_named(fail(3, word, name="evaluate", folder=place, **options), f"{NEWEST}/{name}", where)


def _require_fallback(place: Path, file: str, expected: dict[str, str], options: dict[str, Any]) -> None:
    said = succeed(*GO_ON, "resume_fallback=true", folder=place, **options)
    _require_named(said, file, "resume_fallback=true")
    warnings = json.loads((place / "run" / "summary.json").read_text())["warnings"]
    told = [text for text in warnings if file in text and BEFORE in text]
    require(told, f"summary.json does not tell of the fallback: {warnings}")
    last = (place / "run" / "checkpoints" / "last").read_text().strip()
    require_equal(last, "step-00000008", "the last checkpoint")
    require_equal(weights(place / "run")[last], expected[last], "the weights at the end")


def unharmed(count: int) -> Trial:
    """Return the try of whole runs: nobody says that anything is damaged."""

    def do(folder: Path) -> int:
        for number in range(count):
            place = folder / f"{number}"
            run = whole_run(place)
            words = ("resume_fallback=true",) if number % 2 else ()
            said = succeed("checkpoint=run", name="evaluate", folder=place) + succeed(*GO_ON, *words, folder=place)
            found = json.loads((run / "summary.json").read_text())["warnings"]
            require("damaged" not in said and not found, f"a false alarm: {said} {found}")
            require_equal(weights(run)["step-00000008"], expected_weights()["step-00000008"], "weights")
        return count

    return Trial(f"{count} unharmed runs", do, 600)


def pointers() -> Trial:
    """Return the try of a pointer `last` that is not there, names nothing, or is damaged."""

    def do(folder: Path) -> int:
        expected = expected_weights()
        for text, words in ((None, ()), ("step-00000099\n", ()), ("step-0000\0", ("resume_fallback=true",))):
            place = folder / f"{text!r}".strip("'")[:8]
            run = whole_run(place)
            last = run / "checkpoints" / "last"
            last.unlink() if text is None else last.write_text(text)
            if words:
                require("checkpoints/last" in fail(3, *GO_ON, folder=place), "the damaged pointer is not named")
            succeed(*GO_ON, *words, folder=place)
            require_equal(weights(run)["step-00000008"], expected["step-00000008"], f"weights after last={text!r}")
        return 3

    return Trial("last is missing, names nothing, is damaged", do)


def best_pointer() -> Trial:
    """Return the try of a pointer `best` that is not there, names nothing, or is damaged, met by dlwp-eval."""

    def do(folder: Path) -> int:
        said = {step: f"from step {step} (best val/loss" for step in (2, 6)}
        for text in ("step-00000002\n", None, "step-00000099\n", "step-0000\0", "../../../run\n", ""):
            place = folder / f"{text!r}".replace("/", "_")
            best = whole_run(place, "best") / "checkpoints" / "best"
            best.unlink() if text is None else best.write_text(text)
            if text in ("step-00000002\n", None, "step-00000099\n"):
                found = succeed("checkpoint=run", name="evaluate", folder=place)
                require(said[2 if text == "step-00000002\n" else 6] in found, f"best={text!r}: {found}")
            else:
                found = fail(3, "checkpoint=run", name="evaluate", folder=place)
                require("checkpoints/best is damaged" in found, f"best={text!r}: {found}")
            shutil.rmtree(place)
        return 6

    return Trial("best is missing, names nothing, is damaged", do)


# --------------------------------------------------------------------------------------------------------- controls


def unverified() -> None:
    """Break dlwp: nothing that is read is compared with the manifest."""
    from dlwp.runs import manifest

    def entries(folder: Path) -> Any:
        return json.loads((folder / manifest.NAME).read_bytes())["files"]

    manifest._bytes = lambda folder, name, known: (folder / name).read_bytes()
    manifest._entries = entries


# -------------------------------------------------------------------------------------------------------- the whole


def _harms(scale: Scale) -> list[tuple[str, str]]:
    chance = scale.random("damage")
    kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
    every = [(FILES[number % len(FILES)], kind) for number, kind in enumerate(kinds)]
    chance.shuffle(every)
    return every[: scale.count(2, 24, 500)]


def _trials(scale: Scale) -> list[Trial]:
    harms = [("config.yaml", "flip"), *_harms(scale)]
    parts = -(-len(harms) // 50)
    tries = [commanded(harms[part::parts], f"{scale.seed}/{part}") for part in range(parts)]
    tries += [loaded(scale.seed + number) for number in range(scale.count(1, 4, 20))]
    raw = [("model.safetensors", kind) for kind in KINDS]
    tries.append(commanded(raw[:1] if scale.is_fast else raw, scale.seed, kept="raw"))
    if not scale.is_fast:
        tries.append(commanded([("model.safetensors", "flip")], f"{scale.seed}/fresh", fresh=True))
    return [*tries, unharmed(scale.count(1, 4, 20)), pointers(), best_pointer()]


def _controls(scale: Scale) -> list[Trial]:
    one = [("model.safetensors", "flip")]
    return [
        loaded(scale.seed, ["model.safetensors"], ["flip"], unverified),
        commanded(one, f"{scale.seed}/control", patch=unverified),
    ]


PROMISES = [
    Promise(
        4,
        "damage",
        "A changed, cut, lengthened or missing file of a checkpoint is found and named, whoever reads it.",
        _trials,
        _controls,
    )
]
