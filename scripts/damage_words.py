"""Damage valid commands by a seed: each must be refused with status 2, in one line, before anything is trained.

Owns the damages and what they are judged by; knows nothing of the messages, which tests/test_mistakes.py holds.
Run it as: python scripts/damage_words.py [--mistakes 100] [--seed 0] [--show]
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import os
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

TINY = "data=synthetic data.num_train=64 data.num_test=0 data.shape=[3,8,8] data.batch_size=16"
COMMANDS = tuple(
    tuple(line.split())
    for line in (
        "data=digits model=resnet trainer.epochs=2",
        "data=digits model=vit optimizer=adamw optimizer.lr=0.001 seed=3",
        "data=digits model=cnn scheduler=cosine trainer.ema_decay=0.99 trainer.patience=3",
        "data=digits model=mlp criterion=cross_entropy trainer.precision=fp32 device=cpu",
        "data=digits data.val_fraction=0.2 data.augment=[crop] trainer.eval_every=1epoch",
        f"{TINY} model=linear optimizer=sgd optimizer.momentum=0.9 tags=[first]",
        f"{TINY} model=cnn scheduler=onecycle trainer.max_steps=20 trainer.clip_norm=1.0",
        f"{TINY} model=linear trainer.accumulate=2 logger.plots=false notes=tried",
        f"{TINY} model=mlp model.dropout=0.1 trainer.deterministic=true data.drop_last=true",
        "data=digits model=linear optimizer=lbfgs trainer.monitor=val/loss trainer.keep_last=2",
        "experiment=debug model=resnet model.depth=20 data.loader=memory",
        "-m data=digits model=linear seed=1,2 optimizer.lr=0.1,0.2",
        "--config-name=train data=digits model=linear metrics=classification",
        "--cfg job data=cifar10 model=resnet trainer.epochs=15",
    )
)
END = ("dry_run=true",)
"""What keeps a command that is valid in spite of its damage from being trained; it is not damaged."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TYPES = ("abc", "1.5", "-1", "[1,2]", "{a:1}", "null", "", "true", "1e3x", "nan", "1;2", "'x", "[a", "0x10", "1,2")
GROUPS = ("data", "model", "criterion", "optimizer", "scheduler", "trainer", "logger", "metrics")
OPTIONS = ("resnet", "vit", "digits", "adamw", "cosine", "cross_entropy", "default", "regression", "synthetic")

Damage = Callable[[str, random.Random], str]


def drop(word: str, generator: random.Random) -> str:
    """Leave out a sign, the value, or the key."""
    key, equal, value = word.partition("=")
    if generator.random() < 0.3 and equal:
        return generator.choice([f"{key}=", f"={value}", f"{key}{value}", key])
    place = generator.randrange(len(word))
    return word[:place] + word[place + 1 :]


def swap(word: str, generator: random.Random) -> str:
    """Swap two signs side by side, or key and value."""
    key, equal, value = word.partition("=")
    if generator.random() < 0.2 and equal:
        return f"{value}={key}"
    place = generator.randrange(len(word) - 1)
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def misspell(word: str, generator: random.Random) -> str:
    """Write another letter, one twice, or another case."""
    place = generator.randrange(len(word))
    kinds = (generator.choice(LETTERS), word[place] * 2, word[place].swapcase(), "-", " ")
    return word[:place] + generator.choice(kinds) + word[place + 1 :]


def mistype(word: str, generator: random.Random) -> str:
    """Give a value of another kind."""
    return f"{word.partition('=')[0]}={generator.choice(TYPES)}"


def regroup(word: str, generator: random.Random) -> str:
    """Put an option into another group, or a key into another section."""
    key, _, value = word.partition("=")
    if "." not in key:
        return f"{generator.choice(GROUPS)}={generator.choice([value, *OPTIONS])}"
    leaf = key.rpartition(".")[2]
    return generator.choice([f"{leaf}={value}", f"{generator.choice(GROUPS)}.{leaf}={value}", f"+{word}", f"~{key}"])


DAMAGES: tuple[Damage, ...] = (drop, swap, misspell, mistype, regroup)


class Told(NamedTuple):
    """What a command answered: whether composing refused it, the seconds, the status, both streams."""

    words: list[str]
    damage: str
    composed: bool
    elapsed_s: float
    status: int
    out: str
    err: str


def mistakes(count: int, seed: int) -> Iterator[Told]:
    """Yield what `count` damaged commands answer; those that are still valid are drawn again.

    The current folder is worked in: it must be empty, and may hold the runs of sweeps afterwards.
    """
    generator, found = random.Random(seed), 0
    while found < count:
        words = list(generator.choice(COMMANDS))
        damage = generator.choice(DAMAGES)
        place = generator.choice([place for place, word in enumerate(words) if "=" in word])
        before = words[place]
        words[place] = damage(before, generator)
        if words[place] == before:
            continue
        told = answer([*words, *END], damage.__name__)
        if told.status:
            found += 1
            yield told


def answer(words: list[str], damage: str) -> Told:
    """Type a command in this process."""
    from dlwp.commands import entry, train
    from dlwp.config.compose import composed
    from dlwp.errors import DlwpError

    began = time.process_time()
    try:
        flags = entry.read(words)
        composed(flags.words, config_name=flags.config_name, sweep=flags.multirun)
        is_composed = True
    except DlwpError:
        is_composed = False
    elapsed_s = time.process_time() - began
    out, err = io.StringIO(), io.StringIO()
    with entry.replaced(["dlwp-train", *words]), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        began = time.process_time()
        status = train.main()
        # processor time, and the shorter of both: other work on the machine is not what is measured
        elapsed_s = elapsed_s if is_composed else min(elapsed_s, time.process_time() - began)
    return Told(words, damage, is_composed, elapsed_s, status, out.getvalue(), err.getvalue())


def fault(told: Told) -> str:
    """Return what is wrong with an answer, "" where it is as promised."""
    first, *others = told.err.rstrip("\n").split("\n")
    if told.status != 2:
        return f"exit {told.status}: {told.err.strip()}"
    if "Traceback" in told.out + told.err or "fault in dlwp" in told.err or "HYDRA_FULL_ERROR" in told.err:
        return f"not told in a line: {told.err.strip()}"
    sweep = "-m" in told.words and told.composed  # then each job tells its own
    if not first.startswith("dlwp: error: ") or (not sweep and any(not line.startswith("    ") for line in others)):
        return f"not one line: {told.err.strip()}"
    if len(first) > 320:
        return f"a line of {len(first)} signs: {first}"
    if not told.composed and told.elapsed_s > 1:
        return f"told after {told.elapsed_s:.1f} s, without any class"
    if not re.search(r"['\w]", first.removeprefix("dlwp: error: ")):
        return "says nothing"
    return ""


def main(words: Sequence[str]) -> int:
    """Damage as many commands as asked for, say how they were answered; return 1 if one was not as promised."""
    parser = argparse.ArgumentParser(description="Damage valid commands by a seed, and judge what dlwp answers.")
    parser.add_argument("--mistakes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="each command with its answer")
    asked = parser.parse_args(words)
    import dlwp.rehearsal  # torch and the rest, so that no command pays for them
    import dlwp.telling  # noqa: F401

    folder, here = tempfile.mkdtemp(prefix="damage-"), Path.cwd()
    os.environ |= {"XDG_STATE_HOME": f"{folder}/state", "XDG_CACHE_HOME": f"{folder}/cache"}
    (Path(folder) / "work").mkdir()
    os.chdir(Path(folder) / "work")
    try:
        told = list(mistakes(asked.mistakes, asked.seed))
    finally:
        os.chdir(here)
        shutil.rmtree(folder)
    faults = [(one, text) for one in told if (text := fault(one))]
    for one in told if asked.show else ():
        print(f"{' '.join(one.words)}\n    {one.err.strip()}")
    for one, text in faults:
        print(f"{one.damage}: {' '.join(one.words)}\n    {text}")
    times = [one.elapsed_s for one in told if not one.composed]
    kinds = collections.Counter(one.damage for one in told)
    print(
        f"{len(told)} mistakes ({', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))}), "
        f"{len(faults)} not as promised · {len(times)} refused by composing alone, in {statistics.median(times):.2f} s "
        f"(median), {max(times):.2f} s at most · seed {asked.seed}"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
