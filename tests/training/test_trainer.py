"""The loop: equal to a bare one, exact accumulation, exact resume, policies for what is not finite."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from dlwp import checkpoint, randomness
from dlwp.data.datasets import ArrayDataset
from dlwp.data.resident import ResidentLoader
from dlwp.errors import CallbackError, NonFiniteError
from dlwp.metrics import Accuracy
from dlwp.schedules import Cosine, OneCycle
from dlwp.settings import TrainerSettings
from dlwp.training.events import EpochEnded, Evaluated, EvaluationStep, Logged, Settled, StepEnded, Stop
from dlwp.training.trainer import Trainer

SAMPLES = 97  # odd on purpose: the last batch is small


def task(seed: int = 0) -> ArrayDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(SAMPLES, 6, generator=generator)
    return ArrayDataset(inputs, (inputs[:, 0] + inputs[:, 1] > 0).long() + (inputs[:, 2] > 1).long())


def network(seed: int = 0, *, norm: bool = True, dropout: float = 0.2) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Linear(6, 16)]
    if norm:
        layers.append(nn.BatchNorm1d(16))
    return nn.Sequential(*layers, nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def trainer_of(
    model: nn.Module, settings: TrainerSettings, *, observers: list[object] | None = None, scheduler: object = None
) -> Trainer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Trainer(
        model, nn.CrossEntropyLoss(), optimizer, settings, scheduler=scheduler, metrics={"accuracy": Accuracy()},
        observers=observers or [], seed=3,
    )  # fmt: skip


def loader(batch_size: int = 15, **options: object) -> ResidentLoader:
    return ResidentLoader(task(), batch_size, seed=3, **{"shuffle": True, **options})


def weights(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


class Heard:
    """Keeps the records it hears, as names and plain values."""

    def __init__(self) -> None:
        self.lines: list[tuple[object, ...]] = []

    def on_log(self, event: Logged) -> None:
        timeless = {name: value for name, value in event.values.items() if name != "samples_per_s"}
        self.lines.append(("log", event.step, event.epoch, timeless))

    def on_evaluation(self, event: Evaluated) -> None:
        self.lines.append((event.split, event.step, event.epoch, event.values, event.is_best))

    def on_epoch(self, event: EpochEnded) -> None:
        self.lines.append(("epoch", event.step, event.epoch, event.train, event.val))


def test_trainer_equals_a_bare_loop_bit_for_bit() -> None:
    bare = network()
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.1, momentum=0.9)
    schedule, data, step = Cosine(warmup="3 steps"), task(), 0
    for epoch in range(3):
        order = randomness.permutation(SAMPLES, 3, "order", epoch)
        for start in range(0, SAMPLES, 15):
            index = order[start : start + 15]
            randomness.seed_step(3, step, 0, 0, torch.device("cpu"))
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * schedule(step, 21, 7)
            optimizer.zero_grad()
            nn.functional.cross_entropy(bare(data.inputs[index]), data.targets[index]).backward()
            optimizer.step()
            step += 1
    model = network()
    trainer_of(model, TrainerSettings(epochs=3), scheduler=Cosine(warmup="3 steps")).fit(
        loader(), loader(shuffle=False)
    )
    assert torch.equal(weights(model), weights(bare))


def test_an_evaluation_whose_loss_is_no_number_is_not_the_best_whatever_its_accuracy() -> None:
    class Broken(nn.CrossEntropyLoss):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            loss = super().forward(outputs, targets)
            return loss if outputs.requires_grad or trainer.state.progress.step > 7 else loss * math.nan

    heard = Heard()
    trainer = trainer_of(network(), TrainerSettings(epochs=2), observers=[heard])
    trainer.criterion = Broken()
    trainer.fit(loader(), loader(shuffle=False))
    found = [(line[3]["loss"], line[4]) for line in heard.lines if line[0] == "val"]
    assert [(math.isnan(loss), best) for loss, best in found] == [(True, False), (False, True)]


@pytest.mark.parametrize("accumulate", [2, 3, 5])
def test_accumulated_gradients_equal_those_of_the_whole_batch(accumulate: int) -> None:
    models = [network(norm=False, dropout=0.0).double() for _ in range(2)]
    data = ArrayDataset(task().inputs.double(), task().targets)
    for model, pieces in zip(models, (1, accumulate)):
        settings = TrainerSettings(epochs=2, accumulate=pieces)
        trainer_of(model, settings).fit(ResidentLoader(data, 20, seed=3, shuffle=True))  # the last batch has 17
    assert torch.allclose(weights(models[0]), weights(models[1]), rtol=0, atol=1e-12)


def test_accumulated_gradients_count_class_weights() -> None:
    class_weights = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
    batch = (task().inputs.double()[:17], task().targets[:17])
    gradients = []
    for pieces in (1, 4):
        model = network(norm=False, dropout=0.0).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        settings = TrainerSettings(epochs=1, accumulate=pieces)
        trainer = Trainer(model, nn.CrossEntropyLoss(weight=class_weights), optimizer, settings)
        trainer.fit(ResidentLoader(ArrayDataset(*batch), 17))
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters()]))
    assert torch.allclose(*gradients, rtol=0, atol=1e-12)


def test_model_overfits_one_batch() -> None:
    model = network(dropout=0.0)
    trainer_of(model, TrainerSettings(epochs=200)).fit(ResidentLoader(task(), SAMPLES, seed=3))
    with torch.no_grad():
        assert (model.eval()(task().inputs).argmax(1) == task().targets).float().mean() > 0.97


class SavesAndStops:
    """Saves at a step, then stops the run there."""

    def __init__(self, step: int, folder: object) -> None:
        self.step, self.folder = step, folder

    def on_settled(self, event: Settled) -> Stop | None:
        if event.step != self.step:
            return None
        checkpoint.save(self.folder, event.step, event.trainer.state, "model: {}\n")
        return Stop("cut")


@pytest.mark.parametrize("cut_at", [1, 7, 10, 14, 20])
@pytest.mark.parametrize("variant", ["plain", "ema, accumulation", "torch scheduler", "evaluation by steps"])
def test_resume_equals_uninterrupted_run(tmp_path, cut_at: int, variant: str) -> None:
    settings = TrainerSettings(epochs=3, log_every=3)
    if variant == "ema, accumulation":
        settings = TrainerSettings(epochs=3, log_every=3, ema_decay=0.9, accumulate=3)
    elif variant == "evaluation by steps":
        settings = TrainerSettings(epochs=3, log_every=3, eval_every="5 steps")

    def make(*observers: object) -> Trainer:
        model = network()
        scheduler: object = OneCycle()
        trainer = trainer_of(model, settings, observers=list(observers), scheduler=scheduler)
        if variant == "torch scheduler":
            scheduler = torch.optim.lr_scheduler.OneCycleLR(trainer.optimizer, 0.2, total_steps=21)
            return Trainer(
                model, trainer.criterion, trainer.optimizer, settings, scheduler=scheduler,
                metrics={"accuracy": Accuracy()}, observers=list(observers), seed=3,
            )  # fmt: skip
        return trainer

    val = loader(shuffle=False)
    whole_heard, first_heard, second_heard = Heard(), Heard(), Heard()
    whole = make(whole_heard)
    whole.fit(loader(), val)
    make(first_heard, SavesAndStops(cut_at, tmp_path)).fit(loader(), val)
    resumed = make(second_heard)
    resumed.state.load(*checkpoint.load(tmp_path / checkpoint.name_of(cut_at)))
    resumed.fit(loader(), val)
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert first_heard.lines + second_heard.lines == whole_heard.lines
    assert resumed.state.record()["progress"]["best_step"] == whole.state.record()["progress"]["best_step"]
    if whole.state.averaged is not None:
        averages = [run.state.averaged.state_dict(run.model) for run in (whole, resumed)]
        assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])


class StopsInEvaluation:
    """Stops the run in the middle of the first evaluation, as a signal would."""

    def on_evaluation_step(self, event: object) -> Stop:
        return Stop("stopped:SIGTERM")


def test_stop_in_the_middle_of_an_evaluation_loses_nothing(tmp_path) -> None:
    settings, val = TrainerSettings(epochs=2), loader(shuffle=False)
    heard, resumed_heard = Heard(), Heard()
    trainer_of(network(), settings, observers=[heard]).fit(loader(), val)
    stopped = trainer_of(network(), settings, observers=[StopsInEvaluation()])
    assert stopped.fit(loader(), val).exit == "stopped:SIGTERM"
    checkpoint.save(tmp_path, 7, stopped.state, "")
    resumed = trainer_of(network(), settings, observers=[resumed_heard])
    resumed.state.load(*checkpoint.load(tmp_path / "step-00000007"))
    resumed.fit(loader(), val)
    assert (
        resumed_heard.lines == heard.lines[heard.lines.index(next(line for line in heard.lines if line[0] == "val")) :]
    )


def test_max_steps_ends_the_run_and_the_schedule() -> None:
    rates = []

    class Rates:
        def on_step(self, event: StepEnded) -> None:
            rates.append(event.trainer.learning_rate)

    trainer = trainer_of(network(), TrainerSettings(max_steps=10), observers=[Rates()], scheduler=Cosine())
    assert trainer.fit(loader()).step == 10
    assert len(rates) == 10 and rates[0] == 0.1 and rates[-1] < 0.005


def test_evaluation_does_not_change_the_training() -> None:
    ends = []
    for every in ("1 epoch", "2 steps"):
        model = network()
        trainer_of(model, TrainerSettings(epochs=2, eval_every=every)).fit(loader(), loader(shuffle=False))
        ends.append(weights(model))
    assert torch.equal(*ends)


class Gradients:
    """Keeps whether any parameter has a gradient while an evaluation goes on."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.found: list[bool] = []

    def on_evaluation_step(self, event: EvaluationStep) -> None:
        self.found.append(any(parameter.grad is not None for parameter in self._model.parameters()))


def test_no_gradient_is_kept_while_an_evaluation_goes_on() -> None:
    model = network()
    gradients = Gradients(model)
    trainer_of(model, TrainerSettings(epochs=2), observers=[gradients]).fit(loader(), loader(shuffle=False))
    assert gradients.found
    assert not any(gradients.found)


def poisoned(sample: int = 40) -> ArrayDataset:
    data = task()
    data.inputs[sample, 0] = math.nan
    return data


def test_nonfinite_loss_stops_before_it_reaches_a_weight_and_names_step_and_module() -> None:
    model = network()
    trainer = trainer_of(model, TrainerSettings(epochs=1))
    where = r"at step 3 \(epoch 1, samples 30, 31, 32, 33, \.\.\.\); first in '0'"
    with pytest.raises(NonFiniteError, match=rf"loss is nan {where}\. Try optimizer\.lr=0\.01"):
        trainer.fit(ResidentLoader(poisoned(), 15, seed=3))
    assert all(bool(torch.isfinite(value).all()) for value in model.parameters())


def test_skip_equals_a_run_in_which_that_step_was_left_out() -> None:
    model, reference = network(dropout=0.0), network(dropout=0.0)
    trainer = trainer_of(model, TrainerSettings(epochs=1, on_nonfinite="skip"))
    trainer.fit(ResidentLoader(poisoned(), 15, seed=3))
    data, optimizer = task(), torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)
    for start in (0, 15, 45, 60, 75, 90):  # 30 holds the poisoned sample
        optimizer.zero_grad()
        outputs = reference(data.inputs[start : start + 15])
        nn.functional.cross_entropy(outputs, data.targets[start : start + 15]).backward()
        optimizer.step()
    assert trainer.state.progress.skipped == 1
    kept = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    assert all(torch.equal(value, reference.state_dict()[name]) for name, value in kept.items())


def test_rollback_returns_to_the_last_checkpoint_and_goes_on() -> None:
    model = network(dropout=0.0)
    trainer = trainer_of(model, TrainerSettings(epochs=1, on_nonfinite="rollback"))
    trainer.fit(ResidentLoader(poisoned(), 15, seed=3))
    assert trainer.state.progress.rollbacks == 1
    assert bool(torch.isfinite(weights(model)).all())


def test_averaged_weights_are_what_is_evaluated() -> None:
    model = network()
    trainer = trainer_of(model, TrainerSettings(epochs=2, ema_decay=0.99))
    trainer.fit(loader(), loader(shuffle=False))
    assert trainer.state.averaged is not None
    averaged = copy.deepcopy(model)
    averaged.load_state_dict(trainer.state.averaged.state_dict(model))
    with torch.no_grad():
        outputs = averaged.eval()(task().inputs)
    accuracy = (outputs.argmax(1) == task().targets).double().mean().item()
    assert trainer.state.progress.last_values["accuracy"] == accuracy
    assert not torch.equal(weights(averaged), weights(model))


def test_failing_watcher_changes_nothing_and_is_told() -> None:
    class Watcher:
        watcher = True

        def on_step(self, event: StepEnded) -> None:
            raise KeyError("gone")

    models = [network(), network()]
    trainer_of(models[0], TrainerSettings(epochs=1)).fit(loader())
    trainer = trainer_of(models[1], TrainerSettings(epochs=1), observers=[Watcher()])
    trainer.fit(loader())
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert [text.partition(":")[0] for text in trainer.warnings] == [
        "Watcher failed at step 1",
        "Watcher failed 3 times in a row and was switched off (at step 3)",
    ]


def test_failing_callback_ends_the_run_with_its_place() -> None:
    class Callback:
        def on_step(self, event: StepEnded) -> None:
            raise KeyError("acc")

    with pytest.raises(
        CallbackError, match=r"callback Callback\.on_step failed at .*test_trainer\.py:\d+: KeyError: 'acc'"
    ):
        trainer_of(network(), TrainerSettings(epochs=1), observers=[Callback()]).fit(loader())


def test_step_function_may_give_further_numbers() -> None:
    def step(model: nn.Module, batch: tuple[Tensor, Tensor], criterion: nn.Module) -> tuple[dict[str, Tensor], Tensor]:
        outputs = model(batch[0])
        loss = criterion(outputs, batch[1])
        return {"loss": loss, "size": outputs.detach().abs().mean()}, outputs

    heard, model = Heard(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Trainer(model, nn.CrossEntropyLoss(), optimizer, TrainerSettings(epochs=1), step=step, observers=[heard]).fit(
        loader(), loader(shuffle=False)
    )
    assert all("size" in line[3] for line in heard.lines)
