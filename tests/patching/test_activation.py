"""Patches from Python: before and after the host is imported, any number of times, and undone."""

import importlib
import inspect
import pickle
import pkgutil
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
from rtd_plugin.patching import bootstrap
from rtd_plugin.patching.function_replacement import find_function
from rtd_plugin.patching.host_model import copy_text_tower

# Steps in order, and whether the tuned text encoder composes after them.
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
METHOD_POINT = pytest.param(
    *next(parameter for parameter in POINTS if parameter.values[0][0] == "pic2word").values,
    id="method",
    marks=pytest.mark.slow,
)


@pytest.fixture
def case(copy_host, patch_host, request, tmp_path, randomise, monkeypatch):
    """A host, one of its composition points, and a patch whose weights are another tower for the point's example."""

    class Case:
        name, point, module_name = request.param
        root = copy_host(name)

        def __init__(self):
            folder = (self.root / self.point.file).parents[self.module_name.count(".")]
            sys.path.insert(0, str(folder))
            names = {module.name for module in pkgutil.iter_modules([str(folder)])}
            for name in list(sys.modules):  # an earlier test may have imported a library of the same name
                if name.split(".")[0] in names:
                    monkeypatch.delitem(sys.modules, name)
            self.module = self.import_()
            self.arguments = self.point.example(self.module)
            randomise(self.arguments[0])
            with torch.no_grad():
                self.original = self.function()(*self.arguments)
            self.composition = self.point.read(*self.arguments)
            tuned = copy_text_tower(self.composition.model, None, None)
            randomise(tuned, seed=5)
            save_file(tuned.state_dict(), tmp_path / "tuned.safetensors")
            heads = tuned.heads
            tuned = TextTower.from_state_dict(tuned.state_dict(), heads=heads).eval()
            self.tuned = compose(tuned, self.composition).detach()
            assert (self.tuned - self.original).abs().max() > 0.1
            # A shim would repair LinCIR's function, which would then compose otherwise.
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

        def name_encoder(self):
            """Return which text encoder composes."""
            functions = {find_function(module, self.point.name) for module in (self.module, self.user)}
            assert len(functions) == 1
            with torch.no_grad():
                features = functions.pop()(*self.arguments)
            encoders = {"tuned": (self.tuned, 1e-5), "pre-trained": (self.original, 1e-6)}
            (name,) = [
                name for name, (expected, atol) in encoders.items() if torch.allclose(features, expected, atol=atol)
            ]
            return name

    case = Case()
    yield case
    sys.modules.pop("a_program_of_the_host", None)


@pytest.mark.parametrize("case", POINTS, indirect=True)
def test_a_patch_works_before_and_after_the_import(case):
    """Also for names that were bound before, as `from module import function` does."""
    check_orderings(case, ["activate import", "import activate", "import activate deactivate activate"])


@pytest.mark.parametrize("case", [SEARLE_POINT, METHOD_POINT], indirect=True)
def test_every_ordering_of_steps_is_right(case):
    """For a function, and for a method of a class."""
    check_orderings(case, ORDERINGS)


def check_orderings(case, orderings):
    for ordering in orderings:
        expected = "tuned" if ORDERINGS[ordering] else "pre-trained"
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
        assert case.name_encoder() == expected, ordering
        if activation is not None:
            assert (activation.composed_queries > 0) == ORDERINGS[ordering]
            activation.deactivate()
        assert case.name_encoder() == "pre-trained", f"{ordering} deactivate"
        assert not hasattr(find_function(case.module, case.point.name), "__wrapped__"), (
            "the function of the host is restored"
        )
        case.forget()


searle = pytest.mark.parametrize("case", [SEARLE_POINT], indirect=True)


@searle
def test_contexts_may_be_nested(case):
    case.import_()
    with rtd_plugin.activate(case.patch.folder) as outer:
        assert case.name_encoder() == "tuned"
        with rtd_plugin.activate(str(case.patch.folder)) as inner:
            assert case.name_encoder() == "tuned"
            assert inner.manifest == outer.manifest == case.patch
        assert case.name_encoder() == "tuned", "it was active before"
        assert outer.composed_queries == inner.composed_queries == 6
    assert case.name_encoder() == "pre-trained"
    with pytest.raises(ZeroDivisionError), rtd_plugin.activate(case.patch.folder):
        1 / 0  # noqa: B018
    assert case.name_encoder() == "pre-trained"


@searle
def test_training_code_keeps_the_pre_trained_encoder(case):
    case.import_()
    program = {"__file__": str(case.root / "src/train_other.py"), "case": case}
    exec("def step(): return case.function()(*case.arguments)", program)
    with rtd_plugin.activate(case.patch.folder) as activation, torch.no_grad():
        torch.testing.assert_close(program["step"](), case.original)
        assert activation.composed_queries == 0


@searle
def test_a_second_patch_of_a_host_is_refused(case, patch_host, tmp_path):
    other = patch_host(case.root, weights=tmp_path / "tuned.safetensors", folder="other", blend=0.0)
    case.import_()
    with rtd_plugin.activate(case.patch.folder):
        with pytest.raises(RTDError, match=r"other: another patch of .* is active, .*patch: deactivate it first"):
            rtd_plugin.activate(other.folder)
        assert case.name_encoder() == "tuned"
    with rtd_plugin.activate(other.folder):
        assert case.name_encoder() == "pre-trained", "a blend of 0 is the pre-trained encoder"


@searle
def test_a_replaced_function_keeps_its_signature_and_its_name(case):
    """So that it can be pickled for another process."""
    module = case.import_()
    signature = inspect.signature(case.function())
    with rtd_plugin.activate(case.patch.folder):
        assert inspect.signature(case.function()) == signature
        assert pickle.loads(pickle.dumps(case.function())) is case.function() is module.encode_with_pseudo_tokens


@searle
def test_a_reference_to_a_replacement_works_after_deactivation(case):
    case.import_()
    with rtd_plugin.activate(case.patch.folder):
        kept = case.function()
    with torch.no_grad():
        torch.testing.assert_close(kept(*case.arguments), case.original)


@searle
def test_a_module_of_the_same_name_outside_the_host_is_unchanged(case, tmp_path):
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
def test_a_patch_may_be_activated_while_a_module_of_the_host_is_imported(case):
    """A module that waits for its patch may import, before it defines its functions, another one that waits."""
    source = case.root / "src/encode_with_pseudo_tokens.py"
    (source.parent / "trigger.py").write_text(
        "from rtd_plugin.patching.bootstrap import activate_waiting\nactivate_waiting()\n"
    )
    source.write_text(f"import trigger\n{source.read_text()}")
    bootstrap.start(str(case.patch.folder))
    case.import_()
    assert case.name_encoder() == "tuned"


@searle
def test_a_changed_host_is_refused(case):
    file = case.root / case.point.file
    file.write_text("def encode_with_pseudo_tokens(model, text): ...\n")
    with (
        rtd_plugin.activate(case.patch.folder),
        pytest.raises(RTDError, match=r"has encode_with_pseudo_tokens\(model, text\), but .* the host has changed"),
    ):
        case.import_()
    sys.modules.pop(case.module_name, None)


@searle
def test_a_folder_without_a_patch_is_refused(case, tmp_path):
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
            assert case.name_encoder() == "tuned"
