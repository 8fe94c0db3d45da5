"""Own into how many pieces a batch is cut; with `trainer.accumulate=auto`, into twice as many when memory runs out.

Knows nothing of what is computed of a piece.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dlwp import devices, distributed
from dlwp.nested import cut, size_of

if TYPE_CHECKING:
    from dlwp.training.trainer import Trainer


class Pieces:
    """Computes a batch in pieces.

    The number that "auto" finds is kept in the run's progress, so that a resumed run begins with it. The same batch is
    cut anew, as if the step had begun with that number: buffers and running sums are put back, random numbers are those
    of (step, piece).
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._auto = trainer.settings.accumulate == "auto"
        self._fixed = 1 if self._auto else int(trainer.settings.accumulate)
        names = {type(module).__name__ for module in trainer.model.modules()}
        self._least = 2 if any("BatchNorm" in name for name in names) else 1  # samples a piece: one has no variance

    @property
    def count(self) -> int:
        """The number of pieces."""
        return max(self._fixed, self._trainer.state.progress.pieces)

    def compute(self, batch: Any, job: Callable[[list[Any]], Tensor]) -> Tensor:
        """Return job(pieces of `batch`), tried again with smaller pieces where memory runs out and may be saved."""
        most = max(1, size_of(batch) // self._least)
        if not self._auto:
            return job([batch] if self._fixed == 1 else cut(batch, min(self._fixed, most)))
        most = min(distributed.gathered(most))
        trainer = self._trainer
        buffers = [(buffer, buffer.clone()) for buffer in trainer.model.buffers()]
        sums = trainer.tally.state_dict()
        while True:
            loss = None
            try:
                loss = job(cut(batch, min(self.count, most)))
            except (RuntimeError, MemoryError) as error:
                if not devices.is_out_of_memory(error) or self.count >= most:
                    raise
            if distributed.any_of(loss is None or None) is None:  # of no process
                assert loss is not None
                return loss
            # here the error is gone, and with it the tensors that its traceback held
            trainer.optimizer.zero_grad(set_to_none=True)
            for buffer, kept in buffers:
                buffer.copy_(kept)
            trainer.tally.load_state_dict(sums)
            if trainer.device.type == "cuda":
                torch.cuda.empty_cache()
            self._double(size_of(batch), most)

    def _double(self, size: int, most: int) -> None:
        progress = self._trainer.state.progress
        progress.pieces = min(2 * self.count, most)
        note = "; batch norm sees a piece at a time" if self._least > 1 else ""
        self._trainer.warn(
            f"out of memory at step {progress.step + 1:,}: batches go on in {progress.pieces} pieces of "
            f"{-(-size // progress.pieces)} samples (trainer.accumulate={progress.pieces}){note}"
        )
