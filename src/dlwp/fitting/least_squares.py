"""Own the settings of a fit by least squares, as an optimizer that is never stepped over batches.

Knows nothing of how a fit is found.
"""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from dlwp.errors import ConfigError, did_you_mean

LOSSES = ("linear", "soft_l1", "huber", "cauchy", "arctan")
"""What is made of a squared residual z: z, 2((1+z)^0.5-1), z up to 1 then 2z^0.5-1, log(1+z), arctan(z)."""


class LeastSquares(Optimizer):
    """Minimise the sum of squared residuals of all samples at once, by a trust region with the exact Jacobian.

        minimise 1/2 sum_i s^2 rho((r_i / (sigma_i s))^2),   r = outputs - targets

    Args:
        params: what is fitted.
        loss: rho, one of LOSSES. loss_scale: s, the residual from which a robust loss counts less, in units of sigma
            (or of the targets).
        tolerance: relative change of cost, step and gradient below which the fit has converged.
        max_iterations: steps at most.
        sigma: column of the inputs that holds the standard deviation of each target; None: all alike.
        absolute_sigma: whether sigma is known, so that standard errors follow from it alone, not from the residuals.
        interval: of the parameters: "standard" (t distribution), "profile" (likelihood), "bootstrap".
        resamples: of the bootstrap.

    Raises:
        ConfigError: an option has no such value or no effect.

    Source:
        Branch, Coleman, Li 1999, SIAM J. Sci. Comput. 21 (the solver, scipy.optimize.least_squares).
    """

    def __init__(
        self,
        params: Any,
        loss: str = "linear",
        loss_scale: float = 1.0,
        tolerance: float = 1e-15,
        max_iterations: int = 5000,
        sigma: str | None = None,
        absolute_sigma: bool = False,
        interval: str = "standard",
        resamples: int = 1000,
    ) -> None:
        for key, value, known in (("loss", loss, LOSSES), ("interval", interval, ("standard", "profile", "bootstrap"))):
            if value not in known:
                hint = did_you_mean(str(value), known)
                raise ConfigError(f"optimizer.{key} has no '{value}'.{hint} There are: {', '.join(known)}")
        for key, number in (("loss_scale", loss_scale), ("tolerance", tolerance), ("max_iterations", max_iterations)):
            if not isinstance(number, int | float) or isinstance(number, bool) or number <= 0:
                raise ConfigError(f"optimizer.{key} must be a number above 0, got {number!r}")
        if absolute_sigma and sigma is None:
            raise ConfigError("optimizer.absolute_sigma=true needs the column that holds it: optimizer.sigma=COLUMN")
        if interval == "profile" and loss != "linear":
            raise ConfigError(f"optimizer.interval=profile is of likelihoods, which loss={loss} has none. bootstrap")
        super().__init__(params, {"lr": 1.0})
        self.loss, self.loss_scale, self.sigma = loss, float(loss_scale), sigma
        self.tolerance, self.max_iterations = float(tolerance), int(max_iterations)
        self.absolute_sigma, self.interval, self.resamples = absolute_sigma, interval, int(resamples)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Raise: a fit is of all samples at once."""
        raise ConfigError("least squares fits all samples at once, not batch by batch. trainer=least_squares")

    def describe(self) -> str:
        """Return what it does in a few words."""
        words = ["least squares, trust region, exact Jacobian"]
        words += [f"loss {self.loss}, scale {self.loss_scale:g}"] if self.loss != "linear" else []
        words += [f"weighted by {self.sigma}{' (absolute)' if self.absolute_sigma else ''}"] if self.sigma else []
        return " · ".join(words)
