"""Own `dlwp-runs replay`: the one step at which a run's numbers ceased to be finite, taken again and looked into.

Knows nothing of how a run is trained: the trainer takes the steps from the last checkpoint before it, whose randomness
is counted and so comes again (the same batches, dropout and augmentation), and the step itself under anomaly detection.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlwp import frames, resuming
from dlwp.errors import ConfigError
from dlwp.runs.folder import RunFolder, find_run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dlwp.build import Parts
    from dlwp.training.trainer import Trainer

_NOT_FINITE = re.compile(r"(?:loss is (?:nan|-?inf)|not finite).* at step (\d+)")
_SHOWN = 5


def replay(run: str, words: Sequence[str] = ()) -> list[str]:
    """Take the failing step of a run again, and return what was seen, a line each.

    Args:
        run: a run folder, or "last". words: settings that do not change the result, such as "device=cpu".

    Raises:
        ConfigError: no such run, or it did not end by a loss or a gradient that is not finite.
        DataError: its checkpoint or its data is not what it was.
    """
    folder = RunFolder(find_run(run)[0])
    step = _failed_at(folder)
    saved = [path for path in folder.saved() if int(path.name[5:]) < step]
    parts, checkpoint = _parts(folder, saved[-1] if saved else None, words)
    trainer = parts.trainer([_Until(step - 1)])
    if checkpoint is not None:
        resuming.load(trainer, checkpoint, parts.loaders["train"], exact=True)
    begun = trainer.state.progress.step
    if begun < step - 1:
        trainer.fit(parts.loaders["train"], parts.loaders.get("val"))
    from_where = checkpoint.name if checkpoint is not None else "the run's beginning"
    between = f", steps {begun + 1:,} to {step - 1:,} taken again" if begun < step - 1 else ""
    return [f"replay   step {step:,} of {folder.path}, from {from_where}{between}", *_look(trainer, parts, step)]


def _failed_at(run: RunFolder) -> int:
    """Return the step at which a run's numbers ceased to be finite, from 1."""
    summary = run.read_summary()
    found = _NOT_FINITE.search(str(summary.get("error")))
    if summary.get("exit") != "failed" or found is None:
        how = f"by: {summary['error']}" if summary.get("error") else f"'{summary.get('exit', 'running')}'"
        raise ConfigError(
            f"{run.path} did not end by a loss that is not finite, so nothing is replayed. It ended {how}"
        )
    return int(found[1])


def _parts(run: RunFolder, checkpoint: Path | None, words: Sequence[str]) -> tuple[Parts, Path | None]:
    """Return the parts of a run as it had them, but for compiling, which would hide the modules."""
    from dlwp import features
    from dlwp.build import Builder
    from dlwp.config.compose import compose
    from dlwp.parts import Trust

    config = compose([*words, f"resume={checkpoint or run.path}"])
    typed = [word.lstrip("+~").partition("=")[0] for word in config.typed]
    trust = Trust(not config.foreign, config.trusted)
    parts = Builder(config.values, trust, typed).build(fresh=checkpoint is None)
    parts.settings = dataclasses.replace(parts.settings, compile=False, cuda_graphs=False, patience=None, max_time=None)
    return features.once(parts, checkpoint, lambda text: None), checkpoint


class _Until:
    """Stops a trainer after a step."""

    watcher = False

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step(self, event: Any) -> Any:
        """Stop after the step."""
        from dlwp.training.events import Stop

        return Stop("replayed") if event.step >= self._step else None


# ---- the step -------------------------------------------------------------------------------------------------------


def _look(trainer: Trainer, parts: Parts, step: int) -> list[str]:
    """Take the failing step's forward and backward pass, and return what arose where."""
    import torch

    from dlwp.models.stages import to_training

    progress, loader = trainer.state.progress, parts.loaders["train"]
    to_training(trainer.model)
    batch = next(iter(loader.epoch(progress.epoch, progress.position)))
    numbers = getattr(loader, "indices", None)
    indices = numbers.tolist() if numbers is not None else []
    watch, loss, backward = _Watch(trainer.model, len(indices)), None, ""
    try:
        with warnings.catch_warnings(record=True) as noted, torch.autograd.set_detect_anomaly(True):
            warnings.simplefilter("always")
            loss = trainer.passes.loss(batch)
    except RuntimeError as error:  # anomaly detection names the function whose gradient is NaN
        if "returned nan" not in str(error):
            raise
        backward = _of_backward(str(error), [str(one.message) for one in noted])
    finally:
        watch.remove()
    bad = [(name, value) for name, value in trainer.model.named_parameters() if _is_bad(value.grad)]
    lines = []
    if watch.found is not None:
        lines += _of_module(watch.found, indices, parts.data.train)
    elif loss is not None and _is_bad(loss):
        lines.append(f"first    in the criterion ({type(trainer.criterion).__name__}): all modules give finite numbers")
    elif backward or bad:
        lines.append("first    in a gradient: the forward pass is finite")
    else:
        shown = "" if loss is None else f" (loss {float(loss):.4g})"
        return [f"finite   step {step:,} is finite here{shown}: another machine, version or device than the run's?"]
    if watch.found is None or not watch.found.rows:
        lines.append(f"samples  {_named(parts.data.train, indices)}")
    if backward and watch.found is None:  # else it follows from that
        lines.append(f"backward {backward}")
    if bad and watch.found is None:
        lines.append(f"gradient not finite in {len(bad)} parameters, the last layer's first: {bad[-1][0]}")
    return lines


@dataclasses.dataclass
class _Found:
    """The first output that is not finite: of which module, of which samples of the batch, and what went in."""

    name: str
    module: nn.Module
    rows: list[int]
    what: str
    inputs: str


class _Watch:
    """Looks at the output of each module, children before parents, until one is not finite."""

    def __init__(self, model: nn.Module, batch_size: int) -> None:
        self.found: _Found | None = None
        self._batch_size = batch_size
        self._before = 0  # samples in the pieces of the batch that went through before
        self._handles = [
            module.register_forward_hook(self._hook(name, module is model)) for name, module in model.named_modules()
        ]

    def _hook(self, name: str, is_whole: bool) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            from dlwp.nested import size_of, tensors

            bad = [one for one in tensors(output) if _is_bad(one)]
            if bad and self.found is None:
                rows = _rows(bad[0]) if bad[0].dim() else []
                of_samples = [self._before + row for row in rows if self._before + row < self._batch_size]
                given = list(tensors(inputs))
                what = f"{_word(bad[0])} in an output of {list(bad[0].shape)}"
                self.found = _Found(name, module, of_samples, what, _inputs(given, rows))
            if is_whole:
                self._before += size_of(output)

        return hook

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()


def _is_bad(value: Tensor | None) -> bool:
    return value is not None and value.is_floating_point() and not bool(value.isfinite().all())


def _rows(value: Tensor) -> list[int]:
    found: list[int] = (~value.isfinite()).reshape(len(value), -1).any(1).nonzero().flatten().tolist()
    return found


def _word(value: Tensor) -> str:
    nan, infinite = int(value.isnan().sum()), int(value.isinf().sum())
    return " and ".join(f"{count:,} {kind}" for count, kind in ((nan, "NaN"), (infinite, "infinite")) if count)


def _inputs(given: Sequence[Tensor], rows: Sequence[int]) -> str:
    """Return the range of what went into a module, of the samples that came out bad."""
    told = []
    for value in (one for one in given if one.is_floating_point() and one.numel()):
        picked = value[list(rows)] if rows and value.dim() and max(rows) < len(value) else value
        known = picked[picked.isfinite()]
        bounds = f"{float(known.min()):.4g} to {float(known.max()):.4g}" if known.numel() else "none of them finite"
        told.append(f"{list(value.shape)}, {bounds}{f', {_word(picked)}' if _is_bad(picked) else ''}")
    return "; ".join(told) or "no tensor of numbers"


def _of_module(found: _Found, indices: Sequence[int], dataset: Any) -> list[str]:
    kind = type(found.module).__name__
    name = f"'{found.name}' ({kind})" if found.name else f"the model itself ({kind}), not in one of its modules"
    lines = [f"first    in {name}: {found.what}"]
    if found.rows and indices:
        lines.append(
            f"samples  {_named(dataset, [indices[row] for row in found.rows])} (of {len(indices)} in the batch)"
        )
    weights = [key for key, value in found.module.named_parameters(recurse=False) if _is_bad(value)]
    own = f" · its {', '.join(weights)} not finite" if weights else ""
    return [*lines, f"inputs   {found.inputs}{own}"]


def _named(dataset: Any, indices: Sequence[int]) -> str:
    """Return samples by number, with their files where the data set has such."""
    from dlwp.data.facts import path_of

    paths = [path_of(dataset, index) for index in indices[:_SHOWN]]
    shown = [f"{index} ({path})" if path else str(index) for index, path in zip(indices, paths, strict=False)]
    return ", ".join(shown) + (f" and {len(indices) - _SHOWN} more" if len(indices) > _SHOWN else "")


def _of_backward(text: str, noted: Sequence[str]) -> str:
    """Return which gradient anomaly detection found to be NaN, and the line of the forward pass that it is of."""

    found = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', "\n".join(noted))
    own = [frame for frame in found if frames.is_users(frame[0])]
    at = f", of {frames.near(own[-1][0])}:{own[-1][1]} in {own[-1][2]}" if own else ""
    function = re.search(r"Function '(\w+)'", text)
    return f"the gradient of {function[1] if function else '?'} is NaN{at}"
