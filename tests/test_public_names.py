"""Hold the public face: what `dlwp` says that it has, it has, and nothing stands in its way."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import dlwp


@pytest.mark.parametrize("name", dlwp.__all__)
def test_every_public_name_can_be_used(name: str) -> None:
    found = getattr(dlwp, name)
    assert found is getattr(dlwp, name)
    assert name in dir(dlwp)
    assert isinstance(found, str) or found.__doc__, f"{name} has no docstring"


def test_all_is_sorted_and_holds_each_name_once() -> None:
    assert len(set(dlwp.__all__)) == len(dlwp.__all__)
    assert list(dlwp.__all__) == sorted(dlwp.__all__)


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="module 'dlwp' has no attribute 'trian'"):
        _ = dlwp.trian


def test_no_module_hides_a_public_name() -> None:
    """`dlwp.train` is a function: importing a module of that name would put itself in its place."""
    modules = {module.name for module in pkgutil.iter_modules(dlwp.__path__)}
    assert modules & set(dlwp.__all__) == set()


def test_every_module_imports() -> None:
    for module in pkgutil.walk_packages(dlwp.__path__, "dlwp."):
        importlib.import_module(module.name)


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("dlwp")
    except PackageNotFoundError:
        pytest.skip("dlwp is not installed, only importable")
    assert dlwp.__version__ == installed
