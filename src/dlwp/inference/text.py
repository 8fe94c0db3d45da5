"""Own the way from the begin of a text to how it goes on, by a run that has learned text.

Knows nothing of configs, command lines or how text is shown.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dlwp.data import sequence
from dlwp.errors import ConfigError
from dlwp.inference.networks import Network
from dlwp.models.transformer import continued


class TextPredictor:
    """Go on with a text.

    Args:
        network: of a run with `data=sequence`. device: where it runs.

    Attributes:
        model, facts, encoding, name.

    Example:
        >>> import dlwp
        >>> dlwp.load("outputs/latest")("ROMEO:", length=100)  # doctest: +SKIP
    """

    def __init__(self, network: Network, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.facts, self.name = network.facts, network.name
        self.encoding = network.facts.encoding or {}
        self.model = network.model.to(self.device).eval()
        self.max_length = int(getattr(self.model, "max_length", self.encoding["length"]))

    def __call__(
        self, prompt: str, length: int = 500, temperature: float = 0.8, top_k: int | None = None, seed: int = 0
    ) -> str:
        """Return what follows a prompt; the arguments are those of `stream`."""
        return "".join(self.stream(prompt, length, temperature, top_k, seed))

    def stream(
        self, prompt: str, length: int = 500, temperature: float = 0.8, top_k: int | None = None, seed: int = 0
    ) -> Iterator[str]:
        """Return an iterator of what follows a prompt, token by token as it is found.

        Args:
            prompt: the begin of the text; "" begins behind the end of a line.
            length: tokens that are wanted.
            temperature: 0 takes the likeliest each time, 1 draws as it was learned, above 1 more at random.
            top_k: how many of the likeliest are drawn from; None: all.
            seed: another one gives another text.

        Raises:
            DataError: the prompt has characters that the vocabulary lacks. ConfigError: a number is out of range.
        """
        if temperature < 0 or length < 1 or (top_k is not None and top_k < 1):
            raise ConfigError(
                f"temperature must be ≥ 0, length and top_k ≥ 1; got {temperature:g}, {length} and {top_k}"
            )
        tokens = sequence.encode(prompt, self.encoding) if prompt else [self._begin()]
        found = continued(
            self.model, tokens, length, max_length=self.max_length, temperature=temperature, top_k=top_k, seed=seed,
            device=self.device,
        )  # fmt: skip
        return sequence.decode(found, self.encoding)

    def _begin(self) -> int:
        """Return the token that stands before a begin."""
        if self.encoding["level"] == "bytes":
            return ord("\n")
        return self.encoding["vocabulary"].index("\n") if "\n" in self.encoding["vocabulary"] else 0


def of_network(network: Network, device: torch.device) -> TextPredictor:
    """Return the predictor of a network."""
    return TextPredictor(network, device)
