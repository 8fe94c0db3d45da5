"""Own the reading of NIST's certified regressions, and four small ones of them as text.

Source: NIST/ITL, Statistical Reference Datasets (StRD), nonlinear regression; public domain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from dlwp.fitting.problem import Problem, of_model
from dlwp.models.expression import Expression


@dataclass(frozen=True)
class Certified:
    """A problem with its two starts (P,), its certified values and standard errors (P,), and the residual sum."""

    formula: str
    columns: list[str]
    names: list[str]
    starts: tuple[list[float], list[float]]
    values: list[float]
    errors: list[float]
    inputs: Tensor
    targets: Tensor

    def problem(self, start: int) -> Problem:
        """Return the problem of fitting it from one of its starts."""
        model = Expression(self.formula, self.columns, ["y"], dict(zip(self.names, self.starts[start], strict=True)))
        return of_model(model, self.inputs, self.targets, self.columns)


def read(text: str) -> Certified:
    """Return the problem that a file of the collection holds."""
    lines = text.splitlines()

    def between(title: str) -> list[str]:
        begin, end = map(int, re.search(rf"{title}\s+\(lines\s+(\d+)\s+to\s+(\d+)\)", text).groups())  # type: ignore[union-attr]
        return lines[begin - 1 : end]

    rows = [re.split(r"[\s=]+", line.strip()) for line in between("Starting Values")]
    numbers = [[float(one) for one in row[1:]] for row in rows]
    names = [row[0] for row in rows]
    data = torch.tensor([[float(one) for one in line.split()] for line in between("Data")], dtype=torch.float64)
    head = " ".join(re.search(r"\nModel:.*?Starting [Vv]alues", text, re.DOTALL)[0].split())  # type: ignore[index]
    formula = re.search(r"((?:y|log\[y\])\s+=\s+.*?)\s*\+\s*e\b", head)
    assert formula is not None
    columns = ["x"] if data.shape[1] == 2 else [f"x{number}" for number in range(1, data.shape[1])]
    starts = [row[0] for row in numbers], [row[1] for row in numbers]
    return Certified(
        formula[1], columns, names, starts, [row[2] for row in numbers], [row[3] for row in numbers],
        data[:, 1:], data[:, :1],
    )  # fmt: skip


def digits(found: float, certified: float) -> float:
    """Return how many digits agree: the log relative error that NIST asks for."""
    gap = abs(found - certified) / abs(certified)
    return 16.0 if gap == 0 else -float(torch.tensor(gap, dtype=torch.float64).log10())


def _made(formula: str, starts: str, values: str, errors: str, rows: str) -> Certified:
    first, second = ([float(one) for one in part.split()] for part in starts.split("|"))
    data = torch.tensor([[float(one) for one in row.split()] for row in rows.split(",")], dtype=torch.float64)
    names = [f"b{number}" for number in range(1, len(first) + 1)]
    certified = [[float(one) for one in text.split()] for text in (values, errors)]
    return Certified(formula, ["x"], names, (first, second), *certified, data[:, 1:], data[:, :1])


SMALL = {
    "Misra1a": _made(
        "b1*(1-exp(-b2*x))", "500 0.0001|250 0.0005", "2.3894212918E+02 5.5015643181E-04",
        "2.7070075241E+00 7.2668688436E-06",
        "10.07 77.6,14.73 114.9,17.94 141.1,23.93 190.8,29.61 239.9,35.18 289.0,40.02 332.8,44.82 378.4,50.76 434.8,"
        "55.05 477.3,61.01 536.8,66.40 593.1,75.47 689.1,81.78 760.0",
    ),
    "BoxBOD": _made(
        "b1*(1-exp(-b2*x))", "1 1|100 0.75", "2.1380940889E+02 5.4723748542E-01", "1.2354515176E+01 1.0455993237E-01",
        "109 1,149 2,149 3,191 5,213 7,224 10",
    ),
    "Rat42": _made(
        "b1/(1+exp(b2-b3*x))", "100 1 0.1|75 2.5 0.07", "7.2462237576E+01 2.6180768402E+00 6.7359200066E-02",
        "1.7340283401E+00 8.8295217536E-02 3.4465663377E-03",
        "8.93 9,10.8 14,18.59 21,22.33 28,39.35 42,56.11 57,61.73 63,64.62 70,67.08 79",
    ),
    "MGH10": _made(
        "b1*exp(b2/(x+b3))", "2 400000 25000|0.02 4000 250", "5.6096364710E-03 6.1813463463E+03 3.4522363462E+02",
        "1.5687892471E-04 2.3309021107E+01 7.8486103508E-01",
        "34780 50,28610 55,23650 60,19630 65,16370 70,13720 75,11540 80,9744 85,8261 90,7030 95,6005 100,5147 105,"
        "4427 110,3820 115,3307 120,2872 125",
    ),
}  # fmt: skip
