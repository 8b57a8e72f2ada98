"""LinCIR's prompts, and its composition in every form that its function takes."""

import pytest
import torch
from rtd_adapters.lincir import LinCIR

from rtd_plugin.clip.tokens import encode_text
from rtd_plugin.contract import plugins
from rtd_plugin.contract.composition import compose

W = 32
ADAPTER = LinCIR()
ONE = [[5, 259, 7], [9, 8, 259, 3], [259]]  # positions 2, 3 and 1: the start token is at 0
# texts, shape of the pseudo tokens, and which pseudo token goes where: {(row, position): index}
FORMS = {
    "one each": (ONE, (3, W), {(0, 2): 0, (1, 3): 1, (2, 1): 2}),
    "every $": ([[259, 4, 259, 259], [6, 259, 259]], (2, W), {(0, 1): 0, (0, 3): 0, (0, 4): 0, (1, 2): 1, (1, 3): 1}),
    "a text without $": ([[5, 6, 7], [4, 259]], (2, W), {(1, 2): 1}),
    "one for all": (ONE, (1, W), {(0, 2): 0, (1, 3): 0, (2, 1): 0}),
    "one text for all": ([[5, 259, 7]], (3, W), {(0, 2): 0, (1, 2): 1, (2, 2): 2}),
}


@pytest.fixture(params=ADAPTER.composition_points, ids=lambda point: point.file)
def point(request):
    return request.param


def test_the_adapter_is_installed():
    assert type(plugins.find_adapter("lincir")) is LinCIR


@pytest.mark.parametrize("hidden_states", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_compositions_equal_the_hosts(huggingface, tokenise, assert_equal, point, form, hidden_states):
    host, (texts, shape, positions) = huggingface, FORMS[form]
    tokens, pseudo = tokenise(texts), torch.randn(shape)
    every_text = tokens.expand(max(len(tokens), len(pseudo)), -1)
    expected = host.encode_with(every_text, {position: pseudo[index] for position, index in positions.items()})
    untouched, _ = host.encode_with(every_text, {})
    assert (expected[0] - untouched).norm() > 0.1
    with torch.no_grad():
        encoded = compose(host.tower, point.read(host.model, tokens, pseudo, return_last_states=hidden_states))
        rows = zip(tokens.split(1), pseudo.split(1), strict=False)
        alone = [compose(host.tower, point.read(host.model, *row, 1, hidden_states)) for row in rows]
    if not hidden_states:
        assert_equal(encoded, expected[0])
        assert_equal(torch.cat(alone), expected[0][: len(alone)])
        return
    assert_equal(encoded[0], expected[0])
    torch.testing.assert_close(encoded[1], expected[1], rtol=1e-5, atol=1e-5)
    assert encoded[1].shape == (len(every_text), 12, W)
    torch.testing.assert_close(torch.cat([states for _, states in alone]), expected[1][: len(alone)], rtol=0, atol=1e-5)


def test_hidden_states_after_the_end_token_equal_the_hosts(huggingface, tokenise, point):
    """Padding is encoded too: with end tokens, as Hugging Face's tokenizer pads, and with a `$` among them."""
    tokens, pseudo = tokenise(ONE), torch.randn(3, W)
    tokens[tokens == 0] = 299
    tokens[1, 9] = 259
    vectors = {(0, 2): pseudo[0], (1, 3): pseudo[1], (1, 9): pseudo[1], (2, 1): pseudo[2]}
    expected = huggingface.encode_with(tokens, vectors)
    with torch.no_grad():
        encoded = compose(huggingface.tower, point.read(huggingface.model, tokens, pseudo, return_last_states=True))
    torch.testing.assert_close(encoded, expected, rtol=1e-5, atol=1e-5)


def test_num_tokens_changes_nothing(huggingface, tokenise, point):
    tokens, pseudo = tokenise(ONE), torch.randn(3, W)
    one, two = (compose(huggingface.tower, point.read(huggingface.model, tokens, pseudo, n)) for n in (1, 2))
    torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(2, W), (3, W + 1)])
def test_wrong_arguments_are_refused(huggingface, tokenise, point, shape):
    with pytest.raises(Exception, match=r"3 texts for pseudo tokens of 2 images|shape"):
        compose(huggingface.tower, point.read(huggingface.model, tokenise(ONE), torch.randn(shape)))


def test_the_composition_points_are_those_of_the_repository():
    root, genecis = ADAPTER.composition_points
    assert (root.file, root.modules) == ("encode_with_pseudo_tokens.py", ("encode_with_pseudo_tokens",))
    assert (genecis.file, genecis.modules) == ("genecis/eval_functions.py", ("eval_functions",))
    for point in (root, genecis):
        assert point.name == "encode_with_pseudo_tokens_HF"
        assert str(point.signature) == "(clip_model, text, pseudo_tokens, num_tokens=1, return_last_states=False)"


def test_prompts_are_those_of_the_repository():
    assert ADAPTER.prompt.tokenize(["is red"])[0, :6].tolist() == [49406, 320, 1125, 539, 259, 682]
    assert ADAPTER.prompt.encode(condition="is red") == encode_text("a photo of $ that is red")
    assert ADAPTER.unconditioned_prompt.encode() == encode_text("a photo of $") == [320, 1125, 539, 259]
    assert ADAPTER.encode_two("is red. ", " ,is long?") == encode_text("a photo of $ that is red and is long")
    assert ADAPTER.both_orders
