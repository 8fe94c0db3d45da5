"""Own the loop: forward, criterion, backward, step; then evaluate; and tell observers.

Knows neither configs nor files: it gets plain PyTorch objects and a `TrainerSettings`, and works from Python as well.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dlwp import devices, distributed, parallel, sharding
from dlwp.averaging import AveragedWeights
from dlwp.errors import DataError
from dlwp.metrics import monitored
from dlwp.models.stages import Frozen, to_training
from dlwp.models.views import with_views
from dlwp.optimizers import needs_closure, take_step
from dlwp.settings import Duration, TrainerSettings
from dlwp.training import events
from dlwp.training.audit import Chain
from dlwp.training.batches import Loader, StepFunction, divide, supervised_step
from dlwp.training.dispatch import Dispatch
from dlwp.training.evaluation import evaluate, shares, within_memory
from dlwp.training.events import Outcome
from dlwp.training.nonfinite import Guard
from dlwp.training.passes import Passes
from dlwp.training.rates import Rates
from dlwp.training.state import Stateful, TrainState
from dlwp.training.tally import Tally


class Trainer:
    """Minimise a criterion over batches.

    Args:
        model: an `nn.Module`, already on `device` and in the memory format wanted.
        criterion: (outputs, targets) -> scalar loss.
        optimizer: over the model's parameters.
        settings: how to run; the defaults are those of the command.
        scheduler: a function (step, total_steps, steps_per_epoch) -> factor of the base rate, or a
            `torch.optim.lr_scheduler` object; None keeps the rate.
        scheduler_interval: when a torch scheduler is stepped: "step" or "epoch".
        metrics: name -> metric (update, compute, reset) for training and evaluation.
        observers: objects with some of the hooks of `dlwp.training.events`.
        step: (model, batch, criterion) -> (loss, outputs); default: the model's own `training_step`, else
            `criterion(model(inputs), targets)`. The loss may be a dictionary with "loss" and further numbers to record.
        confusion: a `ConfusionMatrix` to fill at each evaluation, for observers.
        device, seed: of the run. frozen: what `unfreeze_at` thaws.

    Example:
        >>> from dlwp.data.resident import ResidentLoader
        >>> from dlwp.data.datasets import ArrayDataset
        >>> inputs = torch.linspace(-1, 1, 64).reshape(-1, 1)
        >>> data = ArrayDataset(inputs, 3 * inputs)
        >>> model = torch.nn.Linear(1, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> trainer = Trainer(model, torch.nn.MSELoss(), optimizer, TrainerSettings(epochs=20))
        >>> trainer.fit(ResidentLoader(data, 8, shuffle=True)).exit
        'done'
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Any,
        optimizer: Optimizer,
        settings: TrainerSettings | None = None,
        *,
        scheduler: Any = None,
        scheduler_interval: str = "step",
        metrics: Mapping[str, Any] | None = None,
        observers: Sequence[Any] = (),
        step: StepFunction | None = None,
        confusion: Any = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
        frozen: Frozen | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.model = model = parallel.with_norms(model, (settings or TrainerSettings()).sync_batchnorm, self.device)
        self._frozen = frozen
        self.criterion = criterion
        self.optimizer = optimizer
        self.settings = settings or TrainerSettings()
        self.scheduler = scheduler
        self.observers = list(observers)
        self.seed = seed
        self.warnings: list[str] = []
        self.times: defaultdict[str, float] = defaultdict(float)
        self.last_batch: Any = None
        self.monitor, self.monitor_mode = monitored(self.settings.monitor, self.settings.monitor_mode, metrics or {})
        self.precision = "fp32" if self.settings.precision == "auto" else self.settings.precision
        self.step_function: StepFunction = step or getattr(type(model), "training_step", None) or supervised_step
        self._evaluated: Any = torch.compile(model) if self.settings.compile else model
        self.scaler = torch.amp.GradScaler(self.device.type) if self.precision == "fp16" else None
        self._needs_closure = needs_closure(optimizer)
        self._metrics = copy.deepcopy(dict(metrics or {}))
        self._confusion = confusion
        self.tally = Tally(metrics or {}, criterion)
        self.chain = Chain()
        self.guard = Guard(self)
        self._stop: events.Stop | None = None
        self._lost: list[tuple[int, str, str]] = []
        self._next_due: int  # the step that a log, an evaluation or the end of the epoch follows
        self._window_began: tuple[float, int]  # time, samples
        self._epoch_began: tuple[float, int]
        self._wish: events.Stop | None = None  # of an observer here; what all processes do is `_stop`
        self._began = self._mark = 0.0
        self._dispatch = Dispatch(self.observers, self.warn)
        self._rates = Rates(optimizer, scheduler, scheduler_interval, self.settings.extend)
        averaged = AveragedWeights(model, self.settings.ema_decay) if self.settings.ema_decay else None
        stateful: dict[str, Stateful] = {"tally": self.tally, "chain": self.chain}
        for part in self.observers:
            if isinstance(part, Stateful):
                count = sum(type(part).__name__ == name.partition("#")[0] for name in stateful)
                stateful[f"{type(part).__name__}#{count + 1}" if count else type(part).__name__] = part
        self.state = TrainState(model, optimizer, scheduler, averaged, self.scaler, stateful)
        self.passes = Passes(self)

    # ---- the loop -------------------------------------------------------------------------------------------------

    def fit(self, train: Loader, val: Loader | None = None) -> Outcome:
        """Train on `train`, evaluate on `val`, from wherever `self.state` stands.

        Returns:
            How it ended. Observers have been told.

        Raises:
            NonFiniteError: the loss or a gradient became NaN or infinite (`trainer.on_nonfinite`).
            CallbackError: a callback of the user's own raised.
        """
        progress = self._begin(train, val)
        with self._failure_told():
            self._settle()  # what a cut left undone
            while self._stop is None and progress.step < self.total_steps:
                before = progress.step
                to_training(self.model)
                for batch in train.epoch(progress.epoch, progress.position):
                    self.spend("data" if self.last_batch is not None else "start")
                    if self._frozen is not None and progress.step >= self._thaw_step:
                        self.say(f"thawed   {self._frozen.thaw(self.model)}, at step {progress.step:,}")
                        self._frozen = None
                    self.guard.begin_step()
                    self.last_batch = batch
                    self._take_step(self.passes.loss(batch), batch)
                    self._settle()
                    if self._stop is not None or progress.step >= self.total_steps:
                        break
                if self._stop is None and progress.step == before:
                    raise DataError(f"the data gave no batch {progress.position + 1} in epoch {progress.epoch + 1}")
        return self._end(self._stop.exit if self._stop else "done", None)

    def follow(self, train: Loader, val: Loader | None, solver: Callable[[Callable[[float], None]], None]) -> Outcome:
        """Let a solver take the steps, each over all of `train`; it is given what tells of one, by its loss."""
        progress = self._begin(train, val)

        def tell(loss: float) -> None:
            progress.step, progress.epoch = progress.step + 1, progress.epoch + 1
            progress.samples, progress.elapsed_s = progress.samples + train.num_samples, self.elapsed_s
            self.emit(events.StepEnded(self, progress.step, progress.epoch, torch.tensor(loss), train.num_samples))
            self.emit(events.Logged(self, progress.step, progress.epoch, {"loss": loss}))
            self.spend("solver")
            if self._agree():
                raise StopIteration

        with self._failure_told(), contextlib.suppress(StopIteration):
            solver(tell)
            if val is not None:
                self._validate()
            self.emit(events.Settled(self, progress.step, progress.epoch, True))
        return self._end(self._stop.exit if self._stop else "done", None)

    def _take_step(self, loss: Tensor, batch: Any) -> None:
        """Step the optimizer, unless the guard finds loss or gradient not finite; count the step either way."""
        progress = self.state.progress
        self._rates.before_step(progress)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.guard.allows_step(loss, self._gradients(), batch):
            if self.scaler is not None:
                self.scaler.step(self.optimizer)
                self.scaler.update()
            elif self._needs_closure:
                self.optimizer.step(self.passes.closure(loss, batch))  # type: ignore[arg-type]
            else:
                take_step(self.optimizer)
            if self.state.averaged is not None:
                self.state.averaged.update(self.model, progress.step + 1)
            self.tally.add("loss", loss, self.passes.targets, everywhere=True)
        size = self.passes.size
        progress.step += 1
        self._rates.after_step(progress)
        if (indices := getattr(self.train_loader, "indices", None)) is not None:
            self.chain.add(indices)
        progress.position += 1
        progress.samples += size
        progress.pending = self._what_follows()
        self.spend("optimizer")
        if self._dispatch.is_heard("on_step"):
            self.emit(events.StepEnded(self, progress.step, progress.epoch, loss, size))

    def _gradients(self) -> Sequence[Tensor]:
        """Return the gradients; clipped, where `clip_norm` is set, and their norm instead.

        None in fp16: an overflow there is no error, the scaler leaves the step out and lowers its scale.
        """
        clip = self.settings.clip_norm
        norms = [] if clip is None else [nn.utils.clip_grad_norm_(self._trainable, clip)]
        if self.scaler is not None:
            return []
        return sharding.plain(norms or [one.grad for one in self._trainable if one.grad is not None])

    # ---- what follows a step --------------------------------------------------------------------------------------

    def _what_follows(self) -> list[str]:
        progress = self.state.progress
        if progress.step < self._next_due:
            return ["settle"]
        ends_epoch = progress.position == self.steps_per_epoch
        ends_run = progress.step == self.total_steps
        pending = []
        if progress.step % self.settings.log_every == 0 or ends_epoch or ends_run:
            pending.append("log")
        if self._val is not None and (progress.step % self._eval_steps == 0 or ends_run):
            pending.append("evaluate")
        if ends_epoch:
            pending.append("epoch")
        ahead = self.steps_per_epoch - (0 if ends_epoch else progress.position)
        for every in (self.settings.log_every, self._eval_steps):
            ahead = min(ahead, every - progress.step % every)
        self._next_due = min(progress.step + ahead, self.total_steps)
        return [*pending, "settle"]

    def _settle(self) -> None:
        """Do what the last step asks for, each part once, even when a cut comes between them."""
        progress = self.state.progress
        progress.elapsed_s = self.elapsed_s
        ended = "epoch" in progress.pending
        while progress.pending:
            part = progress.pending[0]
            if part == "evaluate" and not self._validate():
                return  # stopped in the middle of it: it stays pending
            progress.pending.pop(0)
            if part == "log":
                self.spend("observers")
                self._log()
                self.spend("logging")
            elif part == "epoch":
                self._end_epoch()
            elif part == "settle":
                self.emit(events.Settled(self, progress.step, progress.epoch, ended))
        self._agree()
        self.spend("observers")

    def _tell_left_out(self) -> None:
        lost, self._lost = self._lost, []
        for one in dict.fromkeys(one for some in distributed.gathered(lost) for one in some):
            self.emit(events.LeftOut(self, *one))

    def _log(self) -> None:
        self.guard.read_verdict()
        if distributed.any_of(self._lost or None):
            self._tell_left_out()
        progress = self.state.progress
        values = self.tally.window()
        since, samples = self._window_began
        now = time.perf_counter()
        rate = (progress.samples - samples) / max(now - since, 1e-9)
        self._window_began = (now, progress.samples)
        values |= {"lr": self.learning_rate, "samples_per_s": rate}
        self.emit(events.Logged(self, progress.step, self._epoch_number(), values))

    def _validate(self) -> bool:
        """Evaluate the validation split and note whether it is the best so far; return False when a hook stopped it."""
        assert self._val is not None
        values = self.evaluate(self._val, "val")
        if values is None:
            return False
        value = values.get(self.monitor.removeprefix("val/"), math.nan)
        self._rates.after_evaluation(value, is_best=self.state.progress.best_step == self.state.progress.step)
        return True

    def evaluate(self, loader: Loader, split: str) -> dict[str, float] | None:
        """Evaluate a split, with the averaged weights where they are kept, and tell observers.

        Args:
            loader: of the split.
            split: "val" is compared with the best so far; "test" and others are only reported.

        Returns:
            "loss" and metrics by name, or None when a hook stopped it.
        """
        started = time.perf_counter()
        progress = self.state.progress
        self.passes.drop_gradients()  # their memory is for what evaluation and saving need
        done = 0

        def heard(size: int) -> bool:
            nonlocal done
            done += size
            self.emit(events.EvaluationStep(self, split, done, loader.num_samples))
            return self._agree()

        memory, model = within_memory(split, loader), with_views(self._evaluated, self.settings.tta)
        given, batches = (self.criterion, self._metrics), shares(loader, heard, idle=sharding.is_sharded(self.model))
        with memory, self._evaluated_weights(), devices.autocast(self.device, self.precision):
            values = evaluate(model, batches, *given, step=self.step_function, tally=self._confusion)
        if self._stop is not None and done < loader.num_samples:
            return None
        best = False
        if split == "val":
            progress.last_values = {name: value if math.isfinite(value) else None for name, value in values.items()}
            best = self._note_best(values.get(self.monitor.removeprefix("val/"), math.nan), values["loss"])
        elapsed = self.spend("evaluation", time.perf_counter() - started)
        confusion = self._confusion.sums.clone() if self._confusion is not None else None
        record = events.Evaluated(
            self, progress.step, self._epoch_number(), split, values, loader.num_samples, elapsed, best, confusion
        )
        self.emit(record)
        return values

    def _end_epoch(self) -> None:
        progress = self.state.progress
        progress.epoch += 1
        progress.position = 0
        self._rates.after_epoch(progress)
        train = self.tally.epoch()
        self.tally.reset()
        val = {name: math.nan if value is None else value for name, value in progress.last_values.items()}
        since, samples = self._epoch_began
        elapsed = time.perf_counter() - since
        self._epoch_began = (time.perf_counter(), progress.samples)
        rate = (progress.samples - samples) / max(elapsed, 1e-9)
        self.emit(events.EpochEnded(self, progress.step, progress.epoch, train, val, elapsed, rate))

    def _note_best(self, value: float, loss: float) -> bool:
        """Note the best evaluation; of two with one value (a small split has few accuracies) that of the lower loss."""
        progress = self.state.progress
        if not math.isfinite(value) or math.isnan(loss):  # classes that nothing is known of have an accuracy too
            return False
        ties = value == progress.best_value and progress.best_loss is not None and loss < progress.best_loss
        if not ties and not self.is_better(value, progress.best_value):
            return False
        progress.best_value, progress.best_loss, progress.best_step = value, loss, progress.step
        return True

    def is_better(self, value: float, than: float | None) -> bool:
        """Return whether a value of the monitored metric is better than another; anything beats None."""
        if than is None:
            return True
        return value > than if self.monitor_mode == "max" else value < than

    # ---- the run around the loop ----------------------------------------------------------------------------------

    def _begin(self, train: Loader, val: Loader | None) -> Any:
        settings, progress = self.settings, self.state.progress
        self.steps_per_epoch = len(train)
        self.total_steps = settings.total_steps(len(train))
        if changed := self.order_changes(train):
            raise DataError(f"the training data is not that of the run: {', '.join(changed)}")
        progress.order = dict(getattr(getattr(train, "order", None), "options", {}))
        self.train_loader, self._val = train, val
        divide(train, parallel.LEAST)
        self._eval_steps = Duration.parse(settings.eval_every).steps(len(train))
        self._trainable = list(self.model.parameters())  # as far as they have a gradient
        thaw = settings.unfreeze_at
        self._thaw_step = self.total_steps if thaw is None else Duration.parse(thaw).steps(len(train))
        self._next_due = 0
        self._stop = self._wish = None
        now = self._mark = time.perf_counter()
        self._began = now - progress.elapsed_s
        self._window_began = self._epoch_began = (now, progress.samples)
        self.guard.keep()
        for loader in (train, val):
            if loader is not None and hasattr(loader, "listener"):
                loader.listener = self
        extended = self._rates.plan(progress, self.total_steps, self.steps_per_epoch)
        if settings.detect_anomaly:
            torch.autograd.set_detect_anomaly(True)
        steps = self.total_steps, self.steps_per_epoch
        self.emit(events.Started(self, progress.step, progress.epoch, *steps, settings.epochs))
        self._agree()
        if extended is not None:
            self.say(f"extended {extended}")
        return progress

    def order_changes(self, train: Loader) -> list[str]:
        """Return how the order of the samples differs from that of the run so far, nothing where it does not."""
        now = getattr(getattr(train, "order", None), "options", {})
        before = self.state.progress.order
        return [f"{name} {was} → {now[name]}" for name, was in before.items() if now.get(name, was) != was]

    def begin_epoch_anew(self) -> None:
        """Drop what was done of the current epoch: the next step is the first of an epoch, maybe of other data."""
        progress = self.state.progress
        progress.position, progress.order = 0, {}
        self.tally.reset()

    @contextlib.contextmanager
    def _failure_told(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:  # any error: observers are told that the run failed, then it goes on its way
            self._end("failed", error)
            raise

    def _end(self, exit_word: str, error: BaseException | None) -> Outcome:
        progress = self.state.progress
        if self.settings.detect_anomaly:
            torch.autograd.set_detect_anomaly(False)
        self._stop = self._wish = None
        try:
            self.emit(events.Ended(self, progress.step, progress.epoch, exit_word, error, dict(self.times)))
        except Exception as failure:  # any error: of an observer; the one that ended the run is what is raised
            if error is None:
                raise
            self.warn(str(failure))
        return Outcome(exit_word, progress.step, progress.epoch, dict(progress.last_values))

    def emit(self, record: Any) -> None:
        """Give a record to every observer that has its hook; take a `Stop` from what they return."""
        if isinstance(record, events.Saved):
            self.guard.keep()
        stop = self._dispatch.emit(record, self.state.progress.step)
        self._wish = self._wish or stop
        if distributed.world_size() == 1:
            self._stop = self._wish

    def _agree(self) -> bool:
        """Let all processes stop where one is to; return whether they do. They ask at the same places."""
        self._stop = self._stop or distributed.any_of(self._wish)
        return self._stop is not None

    def warn(self, text: str) -> None:
        """Note a warning, and say it through the observers that can."""
        self.warnings.append(text)
        self.say(text, "warn")

    def say(self, text: str, how: str = "say") -> None:
        """Say a line through the observers that can."""
        for part in self.observers:
            if callable(say := getattr(part, how, None)):
                say(text)

    def waiting(self) -> bool:
        """Return whether to give up waiting for data: a loader asks at least once a second, and then ends its epoch."""
        self.emit(events.Waiting(self, self.state.progress.step))
        return self._stop is not None

    def left_out(self, sample: int, name: str, reason: str) -> None:
        """Hear from a loader that another sample took the place of one that cannot be read (`data.on_error=skip`)."""
        self._lost.append((sample, name, reason))
        if distributed.world_size() == 1:
            self._tell_left_out()

    @property
    def learning_rate(self) -> float:
        """The rate of the first parameter group at the last step."""
        return self._rates.now

    @property
    def base_rate(self) -> float:
        """The rate before the schedule's factor."""
        return self._rates.base

    @property
    def loss_scale(self) -> float:
        """The factor on the loss in fp16, else 1; waits for the device."""
        return 1.0 if self.scaler is None else float(self.scaler.get_scale())

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, those before a resume included."""
        return time.perf_counter() - self._began

    def spend(self, name: str, elapsed_s: float | None = None) -> float:
        """Count the time since it was last counted, or `elapsed_s` of it, as spent on `name`; return it."""
        now = time.perf_counter()
        elapsed = now - self._mark if elapsed_s is None else elapsed_s
        self._mark = now if elapsed_s is None else min(now, self._mark + elapsed)  # the rest is the next one's
        self.times[name] += elapsed
        return elapsed

    def _evaluated_weights(self) -> contextlib.AbstractContextManager[None]:
        averaged = self.state.averaged
        return averaged.swapped_into(self.model) if averaged is not None else contextlib.nullcontext()

    def _epoch_number(self) -> int:
        """Return the number of the epoch of the last step, from 1."""
        progress = self.state.progress
        return progress.epoch + 1 if progress.position else max(progress.epoch, 1)
