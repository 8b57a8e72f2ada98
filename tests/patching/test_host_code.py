"""The code that a patch folder holds: what it may import, and which adapters' code it can hold."""

import ast
import importlib
import sys

import pytest

from rtd_plugin.patching import host_code
from rtd_plugin.patching.host_code import HOST_MODULES, NotCopiedError, collect_code

ADAPTERS = ("rtd_adapters.lincir", "rtd_adapters.pic2word", "rtd_adapters.searle")
CODE = {path.removesuffix(".py").removesuffix("/__init__"): source for path, source in collect_code(ADAPTERS).items()}


def test_modules_of_the_core_and_of_the_adapters_are_collected():
    names = {path.replace("/", ".") for path in CODE}
    assert names >= {*HOST_MODULES, *ADAPTERS, "rtd_adapters.phi_adapter", "rtd_adapters.pic2word_shims"}
    assert "rtd_plugin.patching.detection" not in names


@pytest.mark.parametrize("path", CODE)
def test_they_are_python_3_8_and_import_each_other_torch_and_the_standard_library(path):
    """Annotations are not evaluated: those of newer Pythons would fail."""
    tree = ast.parse(CODE[path], feature_version=(3, 8))
    annotated = any(isinstance(node, ast.FunctionDef | ast.AnnAssign) for node in ast.walk(tree))
    assert not annotated or b"from __future__ import annotations" in CODE[path]
    name = path.replace("/", ".")
    is_package = hasattr(importlib.import_module(name), "__path__")
    for node, at_import in host_code._list_imports(tree, at_import=True):
        for module, attribute in host_code._resolve(node, name, is_package):
            if at_import:
                top = module.split(".")[0]
                available = {*CODE, "torch"}
                assert top in sys.stdlib_module_names or top == "torch" or module.replace(".", "/") in available, (
                    f"{name} imports {module}"
                )
                submodule = f"{module}.{attribute}"
                if top == "rtd_plugin" and host_code._is_module(submodule):
                    assert submodule in HOST_MODULES


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Writes modules of a package, given by the names of their files."""

    def write_module(**sources: str) -> None:
        (tmp_path / "lab").mkdir()
        (tmp_path / "lab/__init__.py").touch()
        for name, source in sources.items():
            (tmp_path / f"lab/{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        for name in [name for name in sys.modules if name.split(".")[0] == "lab"]:
            monkeypatch.delitem(sys.modules, name)

    return write_module


@pytest.mark.parametrize(
    "source",
    [
        "import os, torch.nn\nfrom numpy import array",
        "from rtd_plugin.contract import Adapter, Composition, Prompt, RTDError, hookimpl",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pydantic",
        "try:\n    import pydantic\nexcept ImportError: ...",
        "def example(module):\n    from clip.model import CLIP",
    ],
)
def test_what_an_adapter_may_import(write_module, source):
    write_module(method=source)
    assert set(collect_code(["lab.method"])) >= {"lab/__init__.py", "lab/method.py", "rtd_plugin/errors.py"}


@pytest.mark.parametrize(
    "source",
    [
        "from lab import helper",
        "import lab.helper",
        "from .helper import x",
        "from . import helper",
        "def f(): import lab.helper",
    ],
)
def test_modules_of_its_own_package_come_along(write_module, source):
    write_module(method=source, helper="x = 5")
    assert "lab/helper.py" in collect_code(["lab.method"])


def test_modules_of_its_base_classes_come_along(write_module):
    write_module(method="from rtd_adapters.searle import SEARLE")
    assert "rtd_adapters/searle.py" in collect_code(["lab.method"], ["rtd_adapters"])
    with pytest.raises(NotCopiedError, match=r"lab\.method imports SEARLE of rtd_adapters\.searle"):
        collect_code(["lab.method"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import yaml", "lab.method imports yaml"),
        ("class A:\n    from PIL import Image", "lab.method imports Image of PIL"),
        ("from rtd_plugin.contract import Adapter, Triplet", "lab.method imports Triplet of rtd_plugin.contract"),
        ("from rtd_plugin.training.loss import rtd_loss", "lab.method imports rtd_loss of rtd_plugin.training.loss"),
        ("from lab.helper import x", "lab.helper imports yaml"),
        ("match 5:\n    case _: ...", "lab.method has syntax that Python 3.8 lacks"),
        ("import lab.missing", "lab.missing has no source file"),
    ],
)
def test_an_adapter_that_imports_more_cannot_be_copied(write_module, source, message):
    write_module(method=source, helper="import yaml")
    with pytest.raises(NotCopiedError, match=message):
        collect_code(["lab.method"])
