"""Examples in docstrings print the output that they show; those that need a GPU or a download are left out."""

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import rtd_adapters
import rtd_recipes
from _pytest.mark import ParameterSet

import rtd_plugin

PACKAGES = (rtd_plugin, rtd_adapters, rtd_recipes)
SLOW = {"rtd_plugin.workflows.train.train"}


def find_examples() -> Iterator[ParameterSet]:
    """Yield the docstrings with examples that can run here."""
    finder = doctest.DocTestFinder()
    for package in PACKAGES:
        modules = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
        for module in [package.__name__, *modules]:
            if module.endswith("__main__"):  # importing it runs it
                continue
            for docstring in finder.find(importlib.import_module(module), module):
                if any(doctest.SKIP not in example.options for example in docstring.examples):
                    marks = [pytest.mark.slow] if docstring.name in SLOW else []
                    yield pytest.param(docstring, id=docstring.name, marks=marks)


EXAMPLES = list(find_examples())


@pytest.mark.parametrize("docstring", EXAMPLES)
def test_examples_print_what_they_show(
    docstring: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output: list[str] = []
    assert not doctest.DocTestRunner().run(docstring, out=output.append).failed, "".join(output)


def test_slow_examples_exist() -> None:
    assert {example.id for example in EXAMPLES} >= SLOW
