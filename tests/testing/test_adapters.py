"""The checks accept correct adapters, and report the fault of each broken one."""

import dataclasses
import re
import subprocess
import sys

import pytest
import torch
from rtd_adapters.lincir import LinCIR
from rtd_adapters.phi import Phi
from rtd_adapters.pic2word import Pic2Word
from rtd_adapters.searle import SEARLE
from torch import nn

from rtd_plugin.clip.tokens import Prompt
from rtd_plugin.contract.composition import Composition, CompositionPoint
from rtd_plugin.testing import check_adapter, encode_slowly
from rtd_plugin.testing.fixtures import build_small_tower


class Split(nn.Module):
    """Three pseudo tokens of a feature."""

    def __init__(self, features, token_width):
        super().__init__()
        self.linear = nn.Linear(features, 3 * token_width)

    def forward(self, features):
        return self.linear(features).unflatten(1, (3, -1))


class Threefold(LinCIR):
    """A method of another kind: three pseudo tokens a placeholder, bare state dicts, no host."""

    name = "threefold"
    composition_points = ()

    def build_projection(self, state, features, token_width):
        return Split(features, token_width)

    def projection_state(self, checkpoint):
        return checkpoint

    def projection_checkpoint(self, state):
        return state


class Streams(Threefold):
    """Averages the features of two composed queries."""

    name = "streams"

    def project(self, projection, inputs):
        pseudo_tokens = projection(inputs.features)
        return pseudo_tokens, -pseudo_tokens


@pytest.mark.parametrize(
    "adapter", [LinCIR(), SEARLE(), Pic2Word(), Threefold(), Streams()], ids=lambda adapter: adapter.name
)
def test_correct_adapters_pass(adapter):
    check_adapter(adapter)


class BadName(Threefold):
    name = "My Method"


class NoHome(Threefold):
    home = None


class NoCondition(Threefold):
    prompt = Prompt("a photo of $ that is different")


class AnotherPlaceholder(Threefold):
    unconditioned_prompt = Prompt("a photo of *", placeholder="*")


class LatePlaceholder(Threefold):
    prompt = Prompt("{condition} as in $")


class TwoPlaceholders(Threefold):
    unconditioned_prompt = Prompt("a photo of $ and $")


class OneOfTwo(Threefold):
    def encode_two(self, first, second):
        return self.prompt.encode(condition=second)


class SortedConditions(Threefold):
    def encode_two(self, first, second):
        return super().encode_two(*sorted((first, second)))


class Uncleaned(Threefold):
    """Puts conditions into the template without cleaning them."""

    def encode_two(self, first, second):
        return Prompt(f"a photo of $ that {first} and {second}").encode()


class Features(Threefold):
    """Its projection gives features, not token embeddings."""

    def build_projection(self, state, features, token_width):
        return Phi(features, features)


class Pair(nn.Linear):
    def forward(self, features):
        return super().forward(features), features


class TupleWithoutProject(Threefold):
    def build_projection(self, state, features, token_width):
        return Pair(features, token_width)


class StreamsOfTwoShapes(Streams):
    def project(self, projection, inputs):
        pseudo_tokens = projection(inputs.features)
        return pseudo_tokens, pseudo_tokens[:, 0]


class StreamsWithoutTensors(Streams):
    def project(self, projection, inputs):
        return projection(inputs.features), None


class Five(Threefold):
    """More pseudo tokens than the prompt's two placeholders."""

    prompt = Prompt("a photo of $ $ that {condition}")
    unconditioned_prompt = Prompt("a photo of $ $")
    prompt_of_two = Prompt("a photo of $ $ that {first} and {second}")


class Centred(nn.Linear):
    def forward(self, features):
        result = super().forward(features)
        return result - result.mean(dim=0)


class AcrossTheBatch(Threefold):
    """A row's pseudo token depends on the other rows."""

    def build_projection(self, state, features, token_width):
        return Centred(features, token_width)


class Dropping(nn.Linear):
    def forward(self, features):
        return torch.dropout(super().forward(features), 0.5, train=True)


class AlwaysDropout(Threefold):
    def build_projection(self, state, features, token_width):
        return Dropping(features, token_width)


class Double(nn.Linear):
    def forward(self, features):
        return nn.functional.linear(features.float(), self.weight.float(), self.bias.float())


class FullPrecision(Threefold):
    def build_projection(self, state, features, token_width):
        return Double(features, token_width)


class Lossy(Threefold):
    """Its checkpoints lose the bias, which is filled up with zeros."""

    def projection_state(self, checkpoint):
        return {**checkpoint, "linear.bias": torch.zeros(len(checkpoint["linear.weight"]))}


class KeyErrors(LinCIR):
    def projection_state(self, checkpoint):
        return checkpoint["Phi"]


class Credulous(Threefold):
    """Leaves out what it does not know."""

    def projection_state(self, checkpoint):
        return {key: value for key, value in checkpoint.items() if key.startswith("linear.")}


POINT = LinCIR.composition_points[0]


def read_first(clip_model, text, pseudo_tokens, num_tokens=1, return_last_states=False):
    """At the first position of the text instead of the placeholder's."""
    mask = torch.zeros_like(text, dtype=torch.bool)
    mask[:, 1] = True
    rows = max(len(text), len(pseudo_tokens))
    return Composition(clip_model, text.expand(rows, -1), pseudo_tokens.expand(rows, -1), mask)


def read_reversed(clip_model, text, pseudo_tokens, num_tokens=1, return_last_states=False):
    return POINT.read(clip_model, text, pseudo_tokens.flip(0))


class WrongPlace(LinCIR):
    composition_points = (dataclasses.replace(POINT, read=read_first),)


class WrongOrder(LinCIR):
    composition_points = (dataclasses.replace(POINT, read=read_reversed),)


class WrongModule(LinCIR):
    composition_points = (dataclasses.replace(POINT, modules=("encoding",)),)


class WrongFile(LinCIR):
    composition_points = (dataclasses.replace(POINT, file="/home/me/lincir/encode_with_pseudo_tokens.py"),)


def read_last(clip_model, text, pseudo_tokens, num_tokens=1, return_last_states=False):
    """Finds the placeholder in a way that fails for a text without one."""
    columns = torch.tensor([row.nonzero()[-1].item() for row in text == 259])
    return Composition(clip_model, text, pseudo_tokens, torch.arange(text.shape[1]) == columns.unsqueeze(1))


class NeedsPlaceholder(LinCIR):
    composition_points = (dataclasses.replace(POINT, read=read_last),)


def read_own(clip_model, text, pseudo_tokens, num_tokens=1, return_last_states=False):
    """Puts pseudo tokens into texts without a placeholder too."""
    placeholders = (text == 259) | ((text != 259).all(dim=1, keepdim=True) & (torch.arange(text.shape[1]) == 1))
    return Composition(clip_model, text, pseudo_tokens, placeholders)


class AlwaysReplaces(LinCIR):
    composition_points = (dataclasses.replace(POINT, read=read_own),)


class NeverCalled(LinCIR):
    composition_points = (dataclasses.replace(POINT, arguments=lambda model, tokens, pseudo_tokens: None),)


class NoPoint(LinCIR):
    composition_points = ("encode_with_pseudo_tokens.py",)


BROKEN = {
    BadName: "name: the name 'My Method' must be lower-case letters",
    NoHome: "name: it has no address of the method's code or paper: set `home`",
    NoCondition: "prompts: prompt 'a photo of $ that is different' has the conditions [], but needs ['condition']",
    AnotherPlaceholder: "prompts: the placeholder of unconditioned_prompt is '*', that of prompt '$'",
    LatePlaceholder: "prompts: a long condition cuts off the placeholder of prompt '{condition} as in $': put it",
    TwoPlaceholders: "prompts: the numbers of placeholders differ: 1 in prompt, 2 in unconditioned_prompt",
    OneOfTwo: "two conditions: encode_two leaves out the condition 'is red'",
    SortedConditions: "two conditions: encode_two returns the same prompt for both orders",
    Uncleaned: "two conditions: encode_two('is red $ ', '$ has longer sleeves') has 3 placeholders, but prompt 1",
    Features: "projection: features (3, 24) become (3, 24), but pseudo tokens of width 32 are (3, 32) or (3, n, 32)",
    TupleWithoutProject: "projection: the projection returns a tuple: a method that averages features overrides",
    StreamsOfTwoShapes: "projection: the pseudo tokens of the averaged queries have different shapes, [(3, 3, 32), (3,",
    StreamsWithoutTensors: "projection: the projection returns a tuple of Tensor, NoneType, not a tensor",
    Five: "projection: 3 pseudo tokens do not fit the 2 placeholders of prompt",
    AcrossTheBatch: "projection: a row of features gives different pseudo tokens in a batch and alone",
    AlwaysDropout: "projection: the same features give different pseudo tokens on a second call",
    FullPrecision: "precision: features in torch.bfloat16 become pseudo tokens in torch.float32",
    Lossy: "checkpoints: a checkpoint in projection_checkpoint's form gives different pseudo tokens: off by ",
    KeyErrors: f"bad checkpoints: a checkpoint without weights raises KeyError: 'Phi' ({__file__}, line ",
    Credulous: "bad checkpoints: a checkpoint with an additional weight is accepted",
    WrongPlace: "compositions: encode_with_pseudo_tokens_HF: features of 3 texts are wrong, as if `read` did not put",
    WrongOrder: "compositions: encode_with_pseudo_tokens_HF: features of 3 texts are wrong, as if `read` did not put",
    WrongModule: "composition points: the module 'encoding' cannot be the file encode_with_pseudo_tokens.py",
    WrongFile: "composition points: the file '/home/me/lincir/encode_with_pseudo_tokens.py' must be a Python file",
    NeedsPlaceholder: "compositions: raised IndexError: index -1 is out of bounds for dimension 0 with size 0 (",
    AlwaysReplaces: "compositions: texts without a placeholder: encode_with_pseudo_tokens_HF: features of 3 texts are",
    NeverCalled: "compositions: encode_with_pseudo_tokens_HF: `arguments` returns None for every batch",
    NoPoint: "composition points: 'encode_with_pseudo_tokens.py' in composition_points is not a CompositionPoint",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_adapter_is_reported(broken):
    with pytest.raises(AssertionError) as error:
        check_adapter(broken())
    assert str(error.value).startswith(f"the adapter {broken.name!r} does not pass ")
    assert f"\n- {BROKEN[broken]}" in str(error.value)
    if " raise" in BROKEN[broken]:
        assert re.search(
            rf"\({re.escape(__file__)}, line \d+, in (<listcomp>|read_last|projection_state)\)", str(error.value)
        )


def test_a_large_projection_is_neither_written_nor_built_for_each_of_its_weights(monkeypatch):
    built, written = [], []

    class ManyWeights(Threefold):
        def build_projection(self, state, features, token_width):
            built.append(features)
            return Stack(features, token_width)

    class Stack(nn.Module):
        def __init__(self, features, token_width):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(features, token_width) for _ in range(100))

        def forward(self, features):
            return sum(layer(features) for layer in self.layers) / 10

    save = torch.save
    monkeypatch.setattr(torch, "save", lambda value, path: written.append(path) or save(value, path))
    check_adapter(ManyWeights())
    assert len(built) < 60
    assert len(written) <= 4


def test_objects_that_are_not_adapters_are_refused():
    for other in (LinCIR, "lincir", None):
        with pytest.raises(
            AssertionError, match=r"is not an adapter: pass an instance of a subclass of rtd_plugin\.contract"
        ):
            check_adapter(other)


def test_every_fault_is_listed():
    class Several(BadName, OneOfTwo, Lossy):
        pass

    with pytest.raises(AssertionError, match="does not pass 4 checks") as error:
        check_adapter(Several())
    found = re.findall(r"^- ([\w ]+): ", str(error.value), re.MULTILINE)
    assert found == ["name", "two conditions", "checkpoints", "bad checkpoints"]


def test_the_reference_encoder_reads_the_end_token():
    tower = build_small_tower()
    text = [49406, 320, 259, 736, 49407]
    whole = encode_slowly(tower, [*text, 0, 7])
    torch.testing.assert_close(whole, encode_slowly(tower, text), rtol=0, atol=1e-6)
    assert (whole - encode_slowly(tower, [49406, 320, 259, 737, 49407])).abs().max() > 0.1
    own = tower.token_embedding.weight[259:260]
    torch.testing.assert_close(whole, encode_slowly(tower, text, own), rtol=0, atol=1e-6)


def pytest_of(*args, folder):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_pytest_runs_every_check_as_a_separate_test(tmp_path):
    done = pytest_of("--rtd-adapter", "lincir", "-v", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rtd-adapter::lincir::bad checkpoints PASSED" in done.stdout
    assert "10 passed" in done.stdout


@pytest.mark.slow
def test_pytest_shows_why_a_check_fails(tmp_path):
    (tmp_path / "conftest.py").write_text(
        "from rtd_adapters.lincir import LinCIR\n"
        "from rtd_plugin.contract import plugins\n"
        "LinCIR.home = ''\n"
        "assert plugins.find_adapter('lincir').home == ''\n"
    )
    done = pytest_of("--rtd-adapter", "lincir", folder=tmp_path)
    assert done.returncode == 1
    assert "its home is empty" in done.stdout
    assert "1 failed, 9 passed" in done.stdout


@pytest.mark.slow
def test_pytest_refuses_an_unknown_adapter(tmp_path):
    done = pytest_of("--rtd-adapter", "nobody", folder=tmp_path)
    assert done.returncode == 4
    assert "unknown adapter 'nobody': installed are lincir" in done.stderr


def test_pytest_without_the_option_does_not_import_torch(tmp_path):
    (tmp_path / "test_nothing.py").write_text("import sys\ndef test(): assert 'torch' not in sys.modules\n")
    done = pytest_of("-p", "no:hypothesispytest", folder=tmp_path)
    assert "1 passed" in done.stdout, done.stdout


def test_a_point_is_called_with_its_first_three_parameters():
    point = CompositionPoint("a.py", ("a",), "f", lambda model, text, vectors, more=3: None)
    assert point.call("m", "t", "v") == {"model": "m", "text": "t", "vectors": "v"}
