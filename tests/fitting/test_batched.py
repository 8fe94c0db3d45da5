"""Hold that many fits at once are what each is alone."""

from __future__ import annotations

import torch
from nist import SMALL

from dlwp.fitting import batched
from dlwp.fitting.least_squares import LeastSquares
from dlwp.fitting.problem import of_model
from dlwp.fitting.solver import solve
from dlwp.fitting.statistics import of_solution
from dlwp.models.expression import Expression


def many(groups: int = 50) -> tuple[torch.Tensor, ...]:
    """Return inputs (G, N, 1), targets (G, N, 1) and weights (G, N) of decays; every third group lacks samples."""
    draw = torch.Generator().manual_seed(0)
    x = torch.linspace(0, 5, 20, dtype=torch.float64).expand(groups, 20)
    a, k = torch.rand(2, groups, 1, generator=draw, dtype=torch.float64)
    y = (1 + 4 * a) * torch.exp(-(0.3 + 2 * k) * x) + 0.02 * torch.randn(
        groups, 20, generator=draw, dtype=torch.float64
    )
    weights = torch.ones(groups, 20, dtype=torch.float64)
    weights[::3, 15:] = 0
    return x.unsqueeze(2), y.unsqueeze(2), weights


def test_many_fits_at_once_are_what_each_is_alone() -> None:
    inputs, targets, weights = many()
    model = Expression("a*exp(-k*x)", ["x"], ["y"])
    free = torch.full((2,), torch.inf, dtype=torch.float64)
    fits = batched.solve(model, inputs, targets, weights, torch.ones(50, 2, dtype=torch.float64), -free, free)
    assert bool(fits.converged.all())
    assert fits.counts.tolist() == [15 if group % 3 == 0 else 20 for group in range(50)]
    for group in range(0, 50, 7):
        kept = weights[group] > 0
        problem = of_model(model, inputs[group][kept], targets[group][kept])
        how = LeastSquares(model.parameters())
        found = solve(problem, how, start=torch.ones(2).double().numpy())
        said = of_solution(problem.names, found, how, targets[group].flatten().numpy())
        assert torch.allclose(fits.points[group], torch.from_numpy(found.point), rtol=1e-7)
        assert torch.allclose(fits.errors[group], torch.from_numpy(said.errors), rtol=1e-5)


def test_parts_of_them_give_the_same(monkeypatch: object) -> None:
    inputs, targets, weights = many(20)
    model = Expression("a*exp(-k*x)", ["x"], ["y"])
    free = torch.full((2,), torch.inf, dtype=torch.float64)
    start = torch.ones(20, 2, dtype=torch.float64)
    whole = batched.solve(model, inputs, targets, weights, start, -free, free)
    halves = [
        batched.solve(model, inputs[part], targets[part], weights[part], start[part], -free, free).points
        for part in (slice(7), slice(7, 20))
    ]
    assert torch.allclose(whole.points, torch.cat(halves), rtol=1e-9)


def test_a_bound_is_kept_by_each() -> None:
    inputs, targets, weights = many()
    model = Expression("a*exp(-k*x)", ["x"], ["y"])
    low, high = torch.tensor([0.0, 0.0]).double(), torch.tensor([2.0, 5.0]).double()
    fits = batched.solve(model, inputs, targets, weights, torch.ones(50, 2, dtype=torch.float64), low, high)
    assert float(fits.points[:, 0].max()) == 2.0
    assert bool((fits.points >= low).all()) and bool((fits.points <= high).all())


def test_a_fit_that_cannot_be_is_said_not_to_have_converged_or_has_no_error() -> None:
    x = torch.ones(2, 6, 1, dtype=torch.float64)
    model = Expression("a*x + b", ["x"], ["y"])
    free = torch.full((2,), torch.inf, dtype=torch.float64)
    weights, start = torch.ones(2, 6, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    fits = batched.solve(model, x, x.clone(), weights, start, -free, free)
    assert bool(fits.errors.isnan().all())


def test_hard_problems_are_solved_as_by_the_solver_of_one() -> None:
    for name in ("Misra1a", "Rat42"):
        certified = SMALL[name]
        problem = certified.problem(1)
        free = torch.full((len(certified.names),), torch.inf, dtype=torch.float64)
        ones = torch.ones(1, len(certified.inputs), dtype=torch.float64)
        start = torch.tensor([certified.starts[1]], dtype=torch.float64)
        fits = batched.solve(
            problem.model, certified.inputs.unsqueeze(0), certified.targets.unsqueeze(0), ones, start, -free, free
        )
        assert torch.allclose(fits.points[0], torch.tensor(certified.values, dtype=torch.float64), rtol=1e-7)
