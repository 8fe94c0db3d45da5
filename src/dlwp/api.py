"""Own each job from end to end: train, evaluate. The only place where config, parts, observers and run folder meet.

Knows nothing of command lines and exit statuses. Torch is imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlwp import launching, opening, resuming, telling
from dlwp.config import check
from dlwp.runs import environment
from dlwp.runs.folder import RunFolder, point_latest

if TYPE_CHECKING:
    from dlwp.build import Parts
    from dlwp.config.compose import Config
    from dlwp.inference.networks import Network
    from dlwp.observers.console import Console
    from dlwp.training.events import Outcome
    from dlwp.training.trainer import Trainer

_LENGTHS = ("trainer.epochs", "trainer.max_steps")
_SIGNAL_STATUS = {"stopped:SIGINT": 130}
_STOPPED_STATUS = 143


@dataclass
class Run:
    """A run that has ended.

    Attributes:
        folder: where everything lies.
        summary: what summary.json holds ("exit", "step", "best", "last", "test", ...).
    """

    folder: Path
    summary: dict[str, Any]

    @property
    def exit(self) -> str:
        """How it ended: done, early_stopped, max_time, stopped:SIGNAL, failed."""
        return str(self.summary.get("exit", "running"))

    @property
    def exit_code(self) -> int:
        """The status a command ends with: 0, or 130 and 143 after a signal."""
        if self.exit.startswith("stopped:"):
            return _SIGNAL_STATUS.get(self.exit, _STOPPED_STATUS)
        return {"failed": 5, "faults": 3}.get(self.exit, 0)


def train(*words: str, config_dir: str | Path | None = None) -> Run:
    """Train as `dlwp-train WORDS` does, and return the run.

    Args:
        words: settings such as "model=resnet", "trainer.epochs=5".
        config_dir: a folder with configs of one's own (`--config-dir`).

    Raises:
        DlwpError: one of its kinds; the message is one line.

    Example:
        >>> import dlwp
        >>> run = dlwp.train("data=digits", "model=linear", "trainer.epochs=2")  # doctest: +SKIP
        >>> run.summary["test"]["accuracy"]  # doctest: +SKIP
    """
    from dlwp.config.compose import compose

    return train_config(compose(words, config_dir=Path(config_dir) if config_dir else None))


def train_config(config: Config, *, run_dir: Path | None = None) -> Run:
    """Train what a composed config says.

    Args:
        config: from `dlwp.config.compose.compose`.
        run_dir: the run's folder, where the caller decides it (a sweep).
    """
    if config.values.get("check"):
        from dlwp import preflight

        return Run(Path("(none: check)"), {"exit": preflight.check(config, _build)})
    if config.values.get("dry_run"):
        return Run(telling.dry_run(config, _build), {"exit": "dry_run"})
    if processes := launching.count(config):
        run = RunFolder(launching.launch(config, processes, run_dir))
        return Run(run.path, run.read_summary())
    config = launching.begun(config)
    run, named = opening.folder_of(config, run_dir)
    try:
        from dlwp import distributed
        from dlwp.observers.console import Console, Nowhere

        main = distributed.is_main()
        console = (
            Console(run.log, progress=config.values["trainer"]["progress"])
            if main
            else Console(progress=False, stream=Nowhere())
        )
        fresh = config.resume is None and run_dir is None
        with opening.failures_noted(run, console, config, fresh=fresh):
            return _train_in(run, named, config, console)
    finally:
        run.close()


def _train_in(run: RunFolder, named: Path | None, config: Config, console: Console) -> Run:
    from dlwp import distributed

    main, others = distributed.is_main(), environment.OtherWork()
    checkpoint, notes, died, before, is_finished = distributed.from_first(lambda: opening.whence(run, named, config))
    if is_finished and not any(check.split(word)[1] in _LENGTHS for word in config.words):
        return _say_finished(run, config, console)
    parts = _build(config, fresh=checkpoint is None)
    if checkpoint is not None:
        from dlwp.checkpoint import step_of

        step, total = step_of(checkpoint), parts.settings.total_steps(len(parts.loaders["train"]))
        resuming.refuse_shorter(run.path, step, total, config.values["trainer"])
        if is_finished and step == total:
            return _say_finished(run, config, console)
    config_text = config.yaml(parts.decided(stored_only=True))
    if main:
        if checkpoint is None:
            opening.describe(run, config, parts, config_text)
        telling.summary(run, config, parts, console, others)
        point_latest(run.path)
    from dlwp import features
    from dlwp.audience import hearers
    from dlwp.forecast import disk_warnings
    from dlwp.observers.stopping import Signals

    parts = features.once(parts, checkpoint, console.say)
    with Signals(resuming.command(run.path, config.trusted)) as signals:
        observers = hearers(run, config, parts, console, signals, config_text)
        trainer = parts.trainer(observers)
        notes += [*parts.warnings, *([run.unlocked] if run.unlocked else [])]
        notes += disk_warnings(parts, run.checkpoints) if main else []  # the others may have no such folder
        if checkpoint is not None:
            line, anew = resuming.load(trainer, checkpoint, parts.loaders["train"], exact=config.values["resume_exact"])
            if main:
                run.point("last", checkpoint.name)  # before any record is cut to it
                opening.describe(run, config, parts, config_text)  # all of it fits: from here on it is the run's own
                notes += [*anew, *resuming.differences(checkpoint, before, resuming.machine_of(run))]
            console.say(f"resume   {line}" + (f" · {died}" if died else ""))
        for note in notes:
            trainer.warn(note)
        if checkpoint is None and config.resume is not None:
            console.warn(f"{run.path} has no checkpoint yet: starting it again from step 0, in the same folder")
        outcome = _fit(trainer, parts, run, console)
        exit = outcome.exit
        if not exit.startswith(("stopped:", "pruned")) and not _test(run, parts, trainer, console):
            exit = signals.exit or exit
    if main:
        run.update_summary(exit=exit)  # last: who reads "done" finds all of it
        telling.end(run, trainer, console, config, exit)
    return Run(run.path, {**run.read_summary(), "exit": exit})


def _fit(trainer: Trainer, parts: Parts, run: RunFolder, console: Console) -> Outcome:
    from dlwp.fitting.least_squares import LeastSquares

    if not isinstance(trainer.optimizer, LeastSquares):
        return trainer.fit(parts.loaders["train"], parts.loaders.get("val"))
    from dlwp.fitting.fit import fit

    def say(name: str, lines: Sequence[str]) -> None:
        console.say_table({name: lines})

    return fit(trainer, parts.data, parts.loaders, run.path, parts.seed, say)


def _say_finished(run: RunFolder, config: Config, console: Console) -> Run:
    console.say(resuming.word_of_end(run, config.values["trainer"], config.trusted))
    return Run(run.path, run.read_summary())


def _build(config: Config, *, for_training: bool = True, fresh: bool = True) -> Parts:
    from dlwp.build import Builder
    from dlwp.parts import Trust

    typed = [word.lstrip("+~").partition("=")[0] for word in config.typed]
    builder = Builder(config.values, Trust(not config.foreign, config.trusted), typed)
    return builder.build(fresh=fresh) if for_training else builder.build_for_evaluation()


def _test(run: RunFolder, parts: Parts, trainer: Trainer, console: Console) -> bool:
    """Evaluate the test split once, with the best validation step's weights; return False if that was broken off."""
    if "test" not in parts.loaders:
        return True
    from dlwp import checkpoint as checkpoints
    from dlwp import distributed, report, sharding
    from dlwp.training.state import load_weights

    best = distributed.from_first(lambda: run.pointed("best") or run.pointed("last"))
    step = trainer.state.progress.step
    if best is not None and (at := checkpoints.step_of(best)) != step:
        step = at
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.optimizer.state.clear()  # training is over: its memory is that for the weights
        weights, _ = sharding.read(lambda: checkpoints.load_weights(best), trainer.model)
        load_weights(trainer.model, weights)
        if trainer.state.averaged is not None:
            trainer.state.averaged.load_state_dict(weights)
    wanted = trainer.state.progress.best_step
    if parts.settings.keep_best and wanted is not None and step != wanted:
        trainer.warn(f"the weights of the best step {wanted:,} were not saved: test takes those of step {step:,}")
    values = trainer.evaluate(parts.loaders["test"], "test")
    if values is not None and distributed.is_main():
        run.update_summary(test={**values, "step": step})
        count = parts.loaders["test"].num_samples
        bounds: Any = {} if parts.data.facts.task == "sequence" else None
        console.say(f"test     {report.result_line('test', values, count, step, wanted, trainer.monitor, bounds)}")
    return values is not None


def load(checkpoint: str | Path | None = None, *, words: Sequence[str] = (), precision: str = "fp32") -> Any:
    """Return what predicts: of a run, rebuilt from its checkpoint alone, or of a network with published weights.

    It is a `Predictor` for pictures, else what `dlwp.inference.kinds` names for such data.

    Args:
        checkpoint: a run folder (its best weights), a checkpoint folder, or "last"; None: the published network that
            `words` name, EfficientNet-Lite0 where they name none.
        words: settings, such as "model=torchvision", "model.name=resnet50", "device=cpu".
        precision: in which it computes: fp32, bf16, fp16, or auto: bf16 where the machine is faster so.

    Raises:
        ConfigError: no such run or network. DataError: the checkpoint is damaged, or weights cannot be fetched.

    Example:
        >>> import dlwp
        >>> dlwp.load("outputs/latest")("photo.jpg")[0].label  # doctest: +SKIP
    """
    from dlwp import devices
    from dlwp.inference import kinds

    network, config = _network(checkpoint, words)
    device, _ = devices.resolve(config.values["device"])
    devices.limit_threads()
    tta = None if checkpoint is None else config.values["trainer"]["tta"]
    return kinds.predictor_of(network, device, tta, precision)


def export(checkpoint: str | Path | None = None, *, words: Sequence[str] = (), **options: Any) -> Path:
    """Write a network to a file that runs elsewhere, run that in a new process, compare, and return its path.

    `checkpoint` and `words` are as `load` takes them, the options (format="onnx", output=None, preprocessing=False,
    softmax=False, inputs=(), say=print) as `dlwp.inference.export.export` does.
    """
    from dlwp.inference import export as exporting

    return exporting.export(_network(checkpoint, words)[0], **options)


def _network(checkpoint: str | Path | None, words: Sequence[str]) -> tuple[Network, Config]:
    from dlwp.config.compose import compose
    from dlwp.inference import evaluation, networks
    from dlwp.parts import Trust

    folder = None if checkpoint is None else evaluation.find_weights(str(checkpoint))[1]
    if folder is not None:
        words = [*words, "resume_exact=false", f"resume={folder}"]
    elif not any(check.split(word)[1] == "model" for word in words):
        words = ["model=efficientnet_lite", *words]
    config = compose(words)
    trust = Trust(not config.foreign, config.trusted)
    values = config.values
    return networks.of_run(folder, values, trust) if folder else networks.of_published(values, trust), config


def audit(run: str) -> str:
    """Prove from a run's audit.jsonl that each sample of each epoch was used exactly once.

    Args:
        run: a run folder, or "last".

    Returns:
        A line that says what was proven.

    Raises:
        DataError: it was not so, or nothing is recorded. ConfigError: no such run.
    """
    from dlwp import auditing

    return auditing.proven(run)


def evaluate(
    checkpoint: str | None, *, split: str = "auto", words: Sequence[str] = (), output: str | None = None,
    plots: bool = True,
    baseline: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate a run's best weights (or a given checkpoint's) on a split of its data, and draw what was found.

    Args:
        checkpoint: a run folder, a checkpoint folder, or "last"; None: the published network that `words` name, on the
            data that they name, whose classes have the names or WordNet ids of the network's.
        split: train (not augmented), val or test; auto is test, or val where the data has no test split.
        words: settings to change, such as "data.root=/d/x", "device=cpu" or "trainer.tta=mirror".
        output: the folder of the pictures; None is the run's `plots`, or one in outputs/eval where there is no run.
        plots: whether pictures are written.
        baseline: whether trees and a constant are fitted on the same rows and measured, of a table ("baseline").

    Returns:
        "checkpoint" (of published weights the name, and their "step" is None), "split", "step", "num_samples";
        "values", loss and metrics by name; "intervals", 95% of those that are proportions; "worst", the samples that
        went most wrong; "files", the pictures by kind; the "line" for a person, and a "note" where pictures could not
        be written. Of classes: "macro_f1", "by_class", "confusion" (rows true classes), "calibration"; of numbers:
        "regression" (R2, MAE, RMSE); else these are empty or None. Of `data.on_error=skip`: "left_out", the samples
        that could not be read.

    Raises:
        ConfigError: no such run or split. DataError: the checkpoint is damaged.

    Example:
        >>> import dlwp
        >>> dlwp.evaluate("last", split="val", plots=False)["macro_f1"]  # doctest: +SKIP
    """
    from dlwp import published
    from dlwp.config.compose import compose
    from dlwp.inference import evaluation

    if checkpoint is None:
        return published.evaluate(words, split=split, output=output, plots=plots)
    run, folder = evaluation.find_weights(checkpoint)
    whole = ("data.augment=null", "data.drop_last=false") if split == "train" else ()  # the samples as they are, all
    words = check.with_defaults(words, whole)
    parts = _build(compose([*words, "resume_exact=false", f"resume={folder}"]), for_training=False)
    return evaluation.evaluate(parts, run, folder, split=split, output=output, plots=plots, baseline=baseline)
