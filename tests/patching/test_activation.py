"""Patches from Python: before and after the host is imported, any number of times, and undone."""

import importlib
import inspect
import pickle
import sys
import types

import pytest
import torch
from rtd_adapters.lincir import LinCIR
from rtd_adapters.pic2word import Pic2Word
from rtd_adapters.searle import SEARLE
from safetensors.torch import save_file

import rtd_plugin
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract import plugins
from rtd_plugin.contract.composition import compose
from rtd_plugin.errors import RTDError
from rtd_plugin.patching.function_replacement import find_function
from rtd_plugin.patching.host_model import copy_text_tower

# What is done in order, and whether a patch is in force after it.
ORDERINGS = {
    "import": False,
    "activate import": True,
    "import activate": True,
    "activate activate import": True,
    "activate import activate": True,
    "import activate activate": True,
    "activate import deactivate": False,
    "import activate deactivate": False,
    "activate deactivate import": False,
    "import activate activate deactivate": False,
    "import activate deactivate deactivate": False,
    "import activate deactivate activate": True,
    "activate import deactivate activate": True,
    "activate deactivate import activate": True,
    "activate deactivate activate import": True,
    "import activate reload": False,
    "import activate reload activate": True,
    "import activate reload activate deactivate": False,
}
POINTS = [
    pytest.param((adapter.name, point, module), id=f"{module}.{point.name}")
    for adapter in (LinCIR(), Pic2Word(), SEARLE())
    for point in adapter.composition_points
    for module in point.modules
]

SEARLE_POINT = next(parameter for parameter in POINTS if parameter.values[0][0] == "searle")


@pytest.fixture
def case(copy_host, patch_host, request, tmp_path, randomised):
    """A host, one of its composition points, and a patch whose weights are another tower for the point's example."""

    class Case:
        name, point, module_name = request.param
        root = copy_host(name)

        def __init__(self):
            folder = (self.root / self.point.file).parents[self.module_name.count(".")]
            sys.path.insert(0, str(folder))
            self.module = self.import_()
            self.arguments = self.point.example(self.module)
            randomised(self.arguments[0])
            with torch.no_grad():
                self.own = self.function()(*self.arguments)
            self.composition = self.point.read(*self.arguments)
            tuned = copy_text_tower(self.composition.model, None, None)
            randomised(tuned, seed=5)
            save_file(tuned.state_dict(), tmp_path / "tuned.safetensors")
            heads = tuned.heads
            tuned = TextTower.from_state_dict(tuned.state_dict(), heads=heads).eval()
            self.tuned = compose(tuned, self.composition).detach()
            assert (self.tuned - self.own).abs().max() > 0.1
            # Repaired, LinCIR's own function is another one.
            shims = [shim.name for shim in plugins.find_adapter(self.name).shims]
            self.patch = patch_host(self.root, weights=tmp_path / "tuned.safetensors", without_shims=shims)
            self.forget()

        def import_(self):
            self.module = importlib.import_module(self.module_name)
            self.user = types.ModuleType("a_program_of_the_host")
            name = self.point.name.split(".")[0]
            setattr(self.user, name, getattr(self.module, name))  # from module import name
            sys.modules["a_program_of_the_host"] = self.user
            return self.module

        def forget(self):
            del sys.modules[self.module_name]
            sys.modules.pop("a_program_of_the_host", None)

        def reload(self):
            importlib.reload(self.module)
            self.import_()

        def function(self):
            return find_function(self.user, self.point.name)

        def is_in_force(self):
            functions = {find_function(module, self.point.name) for module in (self.module, self.user)}
            assert len(functions) == 1
            with torch.no_grad():
                found = functions.pop()(*self.arguments)
            return torch.allclose(found, self.tuned, atol=1e-5), torch.allclose(found, self.own, atol=1e-6)

    case = Case()
    yield case
    sys.modules.pop("a_program_of_the_host", None)


@pytest.mark.parametrize("case", POINTS, indirect=True)
def test_every_ordering(case):
    """Also of names that were bound before, as `from module import function` does."""
    for ordering, in_force in ORDERINGS.items():
        activation = None
        for step in ordering.split():
            if step == "import":
                case.import_()
            elif step == "reload":
                case.reload()
            elif step == "activate":
                activation = rtd_plugin.activate(case.patch.folder)
            else:
                activation.deactivate()
        assert case.is_in_force() == (in_force, not in_force), ordering
        if activation is not None:
            assert (activation.composed_queries > 0) == in_force
            activation.deactivate()
        assert case.is_in_force() == (False, True), f"{ordering} deactivate"
        assert not hasattr(find_function(case.module, case.point.name), "__wrapped__"), "the host's own is back"
        case.forget()


searle = pytest.mark.parametrize("case", [SEARLE_POINT], indirect=True)


@searle
def test_context_managers(case):
    case.import_()
    with rtd_plugin.activate(case.patch.folder) as outer:
        assert case.is_in_force()[0]
        with rtd_plugin.activate(str(case.patch.folder)) as inner:
            assert case.is_in_force()[0]
            assert inner.manifest == outer.manifest == case.patch
        assert case.is_in_force()[0], "it was in force before"
        assert outer.composed_queries == inner.composed_queries == 6
    assert case.is_in_force()[1]
    with pytest.raises(ZeroDivisionError), rtd_plugin.activate(case.patch.folder):
        1 / 0  # noqa: B018
    assert case.is_in_force()[1]


@searle
def test_two_patches_of_one_host(case, patch_host, tmp_path):
    other = patch_host(case.root, weights=tmp_path / "tuned.safetensors", folder="other", blend=0.0)
    case.import_()
    with rtd_plugin.activate(case.patch.folder):
        with pytest.raises(RTDError, match=r"other: another patch of .* is active, .*patch: deactivate it first"):
            rtd_plugin.activate(other.folder)
        assert case.is_in_force()[0]
    with rtd_plugin.activate(other.folder):
        assert case.is_in_force()[1], "a blend of nothing is the host's own"


@searle
def test_what_a_function_still_is(case):
    """It has its signature, and can be sent to another process by name."""
    module = case.import_()
    signature = inspect.signature(case.function())
    with rtd_plugin.activate(case.patch.folder):
        assert inspect.signature(case.function()) == signature
        assert pickle.loads(pickle.dumps(case.function())) is case.function() is module.encode_with_pseudo_tokens


@searle
def test_a_function_kept_from_before_is_the_hosts_again(case):
    case.import_()
    with rtd_plugin.activate(case.patch.folder):
        kept = case.function()
    with torch.no_grad():
        torch.testing.assert_close(kept(*case.arguments), case.own)


@searle
def test_another_file_of_the_name_is_left_alone(case, tmp_path):
    """Hosts' modules have generic names."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/encode_with_pseudo_tokens.py").write_text("def encode_with_pseudo_tokens(x): return x\n")
    sys.path.insert(0, str(tmp_path / "elsewhere"))
    with rtd_plugin.activate(case.patch.folder):
        module = importlib.import_module("encode_with_pseudo_tokens")
        assert module.encode_with_pseudo_tokens(5) == 5
        assert not hasattr(module.encode_with_pseudo_tokens, "__wrapped__")
    del sys.modules["encode_with_pseudo_tokens"]


@searle
def test_a_host_that_has_changed(case):
    file = case.root / case.point.file
    file.write_text("def encode_with_pseudo_tokens(model, text): ...\n")
    with (
        rtd_plugin.activate(case.patch.folder),
        pytest.raises(RTDError, match=r"has encode_with_pseudo_tokens\(model, text\), but .* the host has changed"),
    ):
        case.import_()
    sys.modules.pop(case.module_name, None)


@searle
def test_what_cannot_be_activated(case, tmp_path):
    with pytest.raises(RTDError, match="neither a patch folder nor a host with one beside it"):
        rtd_plugin.activate(case.root)
    with pytest.raises(RTDError, match="no such folder"):
        rtd_plugin.activate(tmp_path / "none")


@searle
def test_a_host_stands_for_the_patch_beside_it(case, patch_host, tmp_path):
    patch_host(case.root, weights=tmp_path / "tuned.safetensors", folder=f"{case.root.name}-rtd-patch")
    case.import_()
    for folder in (case.root, case.root / "src"):
        with rtd_plugin.activate(folder):
            assert case.is_in_force()[0]
