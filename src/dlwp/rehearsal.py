"""Own the dry step: one real batch through a copy of the model, the criterion and backward, before anything slow.

Knows nothing of optimizers, observers or run folders. What does not fit is told with both shapes, the layer's name and
the key to change.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
import traceback
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dlwp import devices, frames, randomness, sharding
from dlwp.build import Parts
from dlwp.data.streaming import on_device
from dlwp.errors import ConfigError, DataError
from dlwp.nested import cut, described, each, inputs_of, size_of, target_of
from dlwp.training.batches import split_result, supervised_step

_SAMPLES = 4


@dataclass
class Rehearsal:
    """What the dry step saw: the floating-point operations of training on one sample."""

    flops_per_sample: float


def rehearse(parts: Parts) -> Rehearsal:
    """Take a few samples of the first training batch through a copy of the parts.

    Raises:
        ConfigError: model, criterion and data do not fit one another.
        DataError: a sample cannot be used.
    """
    batch = next(iter(parts.loaders["train"].epoch(0)), None)
    if batch is None:
        raise DataError("the training split has no batch")
    samples = min(_SAMPLES, size_of(batch))
    try:
        few = cut(batch, size_of(batch) // samples)[0]
    except ConfigError:  # a batch of the user's own making, that is not cut
        few = batch
    _check_last_batch(parts)
    if parts.settings.compile:
        _try_compiler(parts)
    model, criterion, device = copy.deepcopy(parts.model).train(), parts.criterion, parts.device
    if sharding.is_wanted(parts.strategy):  # the whole may fit the host's memory alone
        device = torch.device("cpu")
        criterion = copy.deepcopy(criterion).to(device)
        few = each(few, lambda one: on_device(one, device))
    step = parts.step or getattr(type(model), "training_step", None) or supervised_step
    watch = _Watch(model)
    check = criterion.register_forward_pre_hook(lambda _, given: _check_outputs(parts, *given[:2]))
    randomness.seed_step(parts.seed, 0, 0, 0, device)
    # a processor without the instructions emulates bf16, far slower than it is worth here
    precision = parts.settings.precision if device.type != "cpu" else "fp32"
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _backward_flops})
    counter.mod_tracker = _Untracked()  # type: ignore[assignment]  # the sum is wanted alone
    try:
        with counter, devices.autocast(device, precision):
            result, _ = step(model, few, criterion)
            loss, _ = split_result(result)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                shape = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
                raise ConfigError(f"the criterion gives {shape}, one number is needed: criterion.reduction=mean")
            if loss.requires_grad:
                loss.backward()
            else:
                raise ConfigError("the loss depends on no trainable parameter (detached, or all frozen)")
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise _explained(error, parts, few, watch) from error
    finally:
        check.remove()
        watch.remove()
    return Rehearsal(counter.get_total_flops() / size_of(few))


def _try_compiler(parts: Parts) -> None:
    """Compile a sum; where that fails, as without a C++ compiler, the run goes on without, and says so."""
    from torch._dynamo.utils import counters

    try:
        torch.compile(lambda values: values + 1, dynamic=False)(torch.zeros(2, device=parts.device))
    except Exception as error:  # any error: whatever torch's compiler lacks here, training does without it
        parts.warnings.append(f"torch.compile failed ({reason(error)}); going on without")
        parts.settings = dataclasses.replace(parts.settings, compile=False)
    torch._dynamo.reset()
    counters.clear()  # the graphs of the run are counted anew


def reason(error: BaseException) -> str:
    """Return why torch.compile failed, in one sentence."""
    text = " ".join(str(error).split()).partition(" Set TORCHDYNAMO_VERBOSE")[0]
    return text[:160].rstrip(".") or type(error).__name__


class _Untracked:
    """Stands for torch's record of which module an operation is in: it fails where a step takes gradients itself."""

    parents: ClassVar[set[str]] = {"Global"}

    def __enter__(self) -> None: ...

    def __exit__(self, *given: object) -> None: ...


def _backward_flops(gradient: Any, inputs: Any, weight: Any, *rest: Any, out_shape: Any = None) -> int:
    """Return the operations of a convolution's gradient; torch counts those of one in groups as if it had none.

    Each of the gradients of input and weight takes as many as the forward pass: 2 for each number of the weight and
    pixel of the output, or, transposed, of the input.
    """
    *_, is_transposed, _, _, wanted = rest
    pixels = math.prod((inputs if is_transposed else gradient)[2:])
    return 2 * gradient[0] * pixels * math.prod(weight) * sum(map(bool, wanted[:2]))


def _check_last_batch(parts: Parts) -> None:
    """A batch of one sample has no variance: batch norm refuses it, in the last step of the first epoch."""
    loader = parts.loaders["train"]
    norms = [module for module in parts.model.modules() if isinstance(module, nn.BatchNorm1d)]
    last = loader.num_samples - (len(loader) - 1) * loader.batch_size
    if norms and last == 1:
        raise ConfigError(
            f"the last batch has 1 sample ({loader.num_samples:,} of {loader.batch_size}) and the model uses batch "
            "norm. data.drop_last=true or another data.batch_size"
        )


def _check_outputs(parts: Parts, outputs: Any, targets: Any) -> None:
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        return
    facts, criterion = parts.data.facts, parts.criterion
    elementwise = isinstance(criterion, nn.MSELoss | nn.L1Loss | nn.SmoothL1Loss | nn.HuberLoss)
    if elementwise and outputs.shape != targets.shape:
        raise ConfigError(
            f"prediction is {list(outputs.shape)}, target {list(targets.shape)}: this would compare all with all. "
            f"Give targets of {list(outputs.shape[1:])} a sample, or a model with outputs of {list(targets.shape[1:])}"
        )
    if facts.task == "regression" and isinstance(criterion, nn.CrossEntropyLoss) and targets.is_floating_point():
        given = f"{list(targets.shape)}, {str(targets.dtype).removeprefix('torch.')}"
        raise ConfigError(f"labels are {given}, CrossEntropyLoss wants whole numbers; for numbers use criterion=mse")
    classes = facts.num_classes
    dense = (len(targets), classes, *targets.shape[1:])
    if facts.task == "segmentation" and isinstance(criterion, nn.CrossEntropyLoss) and tuple(outputs.shape) != dense:
        raise ConfigError(
            f"masks are {list(targets.shape)}, the model gives {list(outputs.shape)}; {list(dense)} are needed, one"
            " logit a class and pixel. model=unet"
        )
    if facts.task == "classification" and outputs.ndim == 4 and targets.ndim == 1:
        raise ConfigError(
            f"the model gives a class for each pixel, {list(outputs.shape)}, the data one for each picture. "
            "model=resnet, or data=segmentation"
        )
    if facts.task == "classification" and classes and outputs.ndim == 2 and isinstance(criterion, nn.CrossEntropyLoss):
        if outputs.shape[1] < classes:
            raise ConfigError(
                f"data has {classes} classes, model has {outputs.shape[1]} outputs. model.num_classes={classes}"
            )
        if outputs.shape[1] > classes:
            parts.warnings.append(f"model has {outputs.shape[1]} outputs, data only {classes} classes")


class _Watch:
    """Knows in which module a forward pass is, and with what shape it was entered."""

    def __init__(self, model: nn.Module) -> None:
        self.inside: list[tuple[str, nn.Module, tuple[int, ...]]] = []
        self._handles = []
        for name, module in model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._enter(name)))
            self._handles.append(module.register_forward_hook(self._leave))

    def _enter(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            shape = tuple(inputs[0].shape) if inputs and isinstance(inputs[0], Tensor) else ()
            self.inside.append((name, module, shape))

        return hook

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.inside.pop()

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def _explained(error: Exception, parts: Parts, batch: Any, watch: _Watch) -> Exception:
    """Return the one line for an error of torch's in the dry step."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if devices.is_out_of_memory(error):
        return error
    if not watch.inside and parts.settings.step is not None and not _is_of_torch(error):
        where = f" at {frames.place(error)}" if frames.place(error) else ""
        return ConfigError(f"trainer.step fails{where} on a batch of {described(batch)}: {text}", frames.lines(error))
    if not watch.inside:
        return _criterion_fault(text, parts, batch)
    name, module, shape = watch.inside[-1]
    inputs = inputs_of(batch)
    given: Any = list(inputs.shape) if isinstance(inputs, Tensor) else described(batch)
    if match := re.search(r"expected input\[.*\] to have (\d+) channels, but got (\d+)", text):
        wanted, got = match.groups()
        return ConfigError(
            f"data gives {given}, the model's layer '{name}' wants [*, {wanted}, *, *] and gets {got} channels. "
            f"model.in_channels={got}"
        )
    if isinstance(module, nn.Linear) and "shapes cannot be multiplied" in text:
        return ConfigError(
            f"data gives {given}: layer '{name}' wants {module.in_features} numbers a sample and gets {shape[-1]}. "
            f"model.in_features={shape[-1]}"
        )
    if "Kernel size can't be greater" in text or "Output size is too small" in text or "Calculated padded" in text:
        kernel = getattr(module, "kernel_size", "?")
        return ConfigError(
            f"pictures of {given[-2:]} are too small for '{name}' (kernel {kernel}). Use larger pictures"
        )
    if "more than 1 value per channel" in text:
        return ConfigError(f"a batch has 1 sample and '{name}' is a batch norm. Another data.batch_size")
    where = f"in '{name}' ({type(module).__name__})" if name else f"in {type(module).__name__}"
    at = f" at {frames.place(error)}" if frames.place(error) else ""
    told = f"the model fails{at} on a batch of {given}, {where}, which gets {list(shape)}: {text}"
    return ConfigError(told, frames.lines(error))


def _is_of_torch(error: Exception) -> bool:
    return "/torch/" in traceback.extract_tb(error.__traceback__)[-1].filename


def _criterion_fault(text: str, parts: Parts, batch: Any) -> Exception:
    name = type(parts.criterion).__name__
    targets = target_of(batch)
    shape = (
        f"{list(targets.shape)}, {str(targets.dtype).removeprefix('torch.')}" if isinstance(targets, Tensor) else "?"
    )
    if (
        isinstance(targets, Tensor)
        and targets.is_floating_point()
        and ("Long" in text or "floating point" in text.lower())
    ):
        return ConfigError(f"labels are {shape}, {name} wants whole numbers; for numbers use criterion=mse")
    if "out of bounds" in text or "out of range" in text:
        return DataError(
            f"a label lies outside of the model's outputs ({text}). model.num_classes=..., or mend the labels"
        )
    return ConfigError(f"{name} does not fit: targets are {shape}: {text}")
