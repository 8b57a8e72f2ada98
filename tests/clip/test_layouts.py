"""State dicts are recognised by their keys, converted without loss, and refused by the name the user knows."""

import re
from itertools import product

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtd_plugin.clip.layouts import (
    LAYOUTS,
    check_finite,
    detect_layout,
    find_towers,
    read_sizes,
    read_state_dict,
    strip_wrapper,
    write_state_dict,
)
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.errors import RTDError

SIZES = {"vocabulary": 11, "context_length": 7, "width": 12, "layers": 2, "heads": 3, "mlp_width": 20, "features": 5}
AUTHORS = "CLIPTextModelWithProjection"
CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"layers": 1, "width": 64, "patch_size": 16, "image_size": 16},
    "text_cfg": {"context_length": 7, "vocab_size": 11, "width": 12, "heads": 3, "layers": 2},
}


def tower_weights(**sizes):
    return TextTower(**{**SIZES, **sizes}).state_dict()


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_survive_a_round_trip(layout, dtype):
    weights = {key: value.to(dtype) for key, value in tower_weights().items()}
    written = write_state_dict(weights, layout)
    assert detect_layout(written) == ("huggingface" if layout == "rtd" else layout)
    assert_same(read_state_dict(written), weights)
    assert_same(TextTower.from_state_dict(written, heads=3).state_dict(), weights)


@settings(deadline=None, max_examples=20)
@given(
    layout=st.sampled_from(LAYOUTS),
    vocabulary=st.integers(1, 9),
    context_length=st.integers(1, 9),
    width=st.integers(1, 9),
    layers=st.integers(1, 12),
    mlp_width=st.integers(1, 9),
    features=st.integers(1, 9),
)
def test_weights_of_any_size_survive_a_round_trip(layout, **sizes):
    weights = tower_weights(heads=1, **sizes)
    again = TextTower.from_state_dict(write_state_dict(weights, layout), heads=1)
    assert_same(again.state_dict(), weights)


def test_written_weights_do_not_share_memory():
    written = write_state_dict(tower_weights(), "huggingface")
    places = [value.untyped_storage().data_ptr() for value in written.values()]
    assert len(set(places)) == len(places)


def test_names_are_those_of_transformers(library):
    sizes = {"vocabulary": 11, "context": 7, "width": 12, "heads": 3, "layers": 2, "features": 5}
    state = library("huggingface", activation="gelu", **sizes).model.state_dict()
    assert_same(write_state_dict(read_state_dict(state), "huggingface"), state)


def test_whole_clip_of_open_clip():
    state = open_clip.CLIP(**CLIP).state_dict()
    weights = read_state_dict(state)
    assert len(weights) == len(tower_weights())
    assert_same(weights, {key: state[key] for key in weights})


def test_custom_text_clip_of_open_clip():
    model = open_clip.CustomTextCLIP(**CLIP)
    state = model.state_dict()
    assert any(key.startswith("text.") for key in state)
    assert_same(read_state_dict(state), model.text.state_dict())


def test_whole_clip_of_openai(library):
    sizes = {"vocabulary": 11, "context": 7, "width": 12, "heads": 3, "layers": 2, "features": 5}
    state = library("openai", **sizes).model.state_dict()
    extra = {"input_resolution": torch.tensor(16), "context_length": torch.tensor(7), "vocab_size": torch.tensor(11)}
    assert_same(read_state_dict({**state, **extra}), read_state_dict(state))


def test_whole_clip_of_transformers():
    from transformers import CLIPConfig, CLIPModel

    text = {"vocab_size": 11, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 3, "max_position_embeddings": 7, "bos_token_id": 9, "eos_token_id": 10}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision |= {"image_size": 16, "patch_size": 16}
    state = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=5)).state_dict()
    assert detect_layout(state) == "huggingface"
    old = {**state, "text_model.embeddings.position_ids": torch.arange(7)[None]}  # a buffer of transformers < 4.31
    assert_same(read_state_dict(old), read_state_dict(state))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_removed(layout, prefix):
    weights = tower_weights()
    written = write_state_dict(weights, layout)
    inner = written[AUTHORS] if layout == "rtd" else written
    wrapped = {prefix + key: value for key, value in inner.items()}
    assert_same(read_state_dict({AUTHORS: wrapped} if layout == "rtd" else wrapped), weights)


CHECKPOINTS = {  # where training programs put a model, by the keys around the weights and the prefix of their names
    "a state dict beside others": (["state_dict"], "module.text."),
    "transformers' trainer": (["model_state_dict"], ""),
    "Lightning": (["state_dict"], "model."),
    "Lightning, a CLIP within a module": (["state_dict"], "model.clip."),
    "DeepSpeed": (["module"], ""),
    "CLIP4Cir": (["CLIP"], ""),
    "nested twice": (["checkpoint", "model"], "module."),
    "an average of weights": ([], "module."),
    "peft's, merged": ([], "base_model.model."),
    "a text encoder within a retrieval model": ([], "text_encoder."),
    "FSDP": ([], "_fsdp_wrapped_module."),
}


@pytest.mark.parametrize("layout", ["openai", "huggingface"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_tower_is_read_wherever_it_is_in_a_checkpoint(layout, name):
    weights = tower_weights()
    keys, prefix = CHECKPOINTS[name]
    checkpoint = {prefix + key: value for key, value in write_state_dict(weights, layout).items()}
    checkpoint |= {} if prefix in ("", "module.text.") else {"criterion.weight": torch.zeros(3)}
    for key in reversed(keys):
        checkpoint = {key: checkpoint, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}, "epoch": 3}
    assert_same(read_state_dict(checkpoint), weights)
    assert read_sizes(checkpoint) == (2, 12, 5)


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."])
@pytest.mark.parametrize("layout", ["openai", "huggingface"])
def test_wrappers_of_blocks_are_removed(layout, wrapper):
    weights = tower_weights()
    state = {
        re.sub(r"((resblocks|layers)\.\d+\.)", rf"\1{wrapper}", key): value
        for key, value in write_state_dict(weights, layout).items()
    }
    assert_same(read_state_dict(state), weights)


def test_the_first_of_several_towers_is_read_and_averages_come_last():
    first, second = tower_weights(), tower_weights()
    nested = {"model_ema": second, "epoch": 1, "state_dict": first}
    assert find_towers(nested) == ["state_dict.", "model_ema."]
    flat = {f"{prefix}.{key}": value for prefix in ("EMA", "teacher", "model") for key, value in first.items()}
    assert find_towers(flat) == ["teacher.", "model.", "EMA."]
    assert find_towers({"semantic": first, "state_dict": second})[0] == "semantic."
    assert_same(read_state_dict(nested), first)
    with_image = {f"image_encoder.{key}": value for key, value in first.items() if "resblocks" in key}
    assert find_towers({**with_image, **{f"text_encoder.{key}": value for key, value in second.items()}}) == [
        "text_encoder."
    ]


LORA = {
    "peft": ("text_model.encoder.layers.0.self_attn.q_proj.", ["base_layer.weight", "lora_A.default.weight"]),
    "loralib": ("text_model.encoder.layers.0.self_attn.q_proj.", ["weight", "w_lora_A"]),
    "DoRA": ("text_model.encoder.layers.0.self_attn.q_proj.", ["lora_magnitude_vector.default.weight"]),
}


@pytest.mark.parametrize("name", LORA)
@pytest.mark.parametrize("alone", [True, False])
def test_lora_that_is_not_merged_is_refused(name, alone):
    module, keys = LORA[name]
    state = {} if alone else write_state_dict(tower_weights(), "huggingface")
    state |= {f"{module}{key}": torch.zeros(2, 2) for key in keys}
    for prefix in ("", "base_model.model."):
        with pytest.raises(RTDError, match=r"LoRA .* is not merged into the weights: call merge_and_unload"):
            read_state_dict({prefix + key: value for key, value in state.items()})


def test_lora_of_the_image_tower_is_refused():
    with pytest.raises(RTDError, match="is not merged"):
        read_state_dict({"base_model.model.vision_model.encoder.layers.0.mlp.fc1.lora_B.weight": torch.zeros(2, 2)})


@pytest.mark.parametrize("wrapper", ["module.", "module._orig_mod."])
@pytest.mark.parametrize("depth", [0, 1])
def test_a_wrapper_is_removed_from_dictionaries_that_have_it_on_all_keys(depth, wrapper):
    wrapped, plain = {f"{wrapper}a.weight": 1, f"{wrapper}b": 2}, {"a.weight": 1, "b": 2}
    assert strip_wrapper({"Phi": wrapped, "epoch": 1} if depth else wrapped) == (
        {"Phi": plain, "epoch": 1} if depth else plain
    )
    assert strip_wrapper({"module.a": 1, "b": 2}) == {"module.a": 1, "b": 2}


def user_state(layout):
    """A state dict and the same one's part with the weights."""
    state = write_state_dict(tower_weights(), layout)
    return state, state[AUTHORS] if layout == "rtd" else state


def test_sparse_tensors_are_refused():
    weights = tower_weights()
    weights["text_projection"] = weights["text_projection"].to_sparse()
    with pytest.raises(RTDError, match="text_projection is a sparse tensor"):
        read_state_dict(weights)
    with pytest.raises(RTDError, match="conv1 is not a tensor, but NoneType"):
        check_finite({"conv1": None})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_missing_key_is_named(layout):
    for key in user_state(layout)[1]:
        state, weights = user_state(layout)
        del weights[key]
        with pytest.raises(RTDError) as error:
            TextTower.from_state_dict(state, heads=3)
        assert str(error.value) == f"missing key {key}"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_wrong_shape_is_named(layout):
    for key in user_state(layout)[1]:
        state, weights = user_state(layout)
        if "token_embedding" in key:
            continue  # the width of all the others
        for wrong in (weights[key].new_zeros(2, 2, 2), weights[key].new_zeros([n + 3 for n in weights[key].shape])):
            weights[key] = wrong
            with pytest.raises(RTDError) as error:
                TextTower.from_state_dict(state, heads=3)
            # The hidden layer's size is read off c_fc, so its neighbours are wrong too.
            names = {key} if ".mlp." not in key else {k for k in weights if ".mlp." in k}
            assert any(name in str(error.value) for name in names)
            assert str(tuple(wrong.shape)) in str(error.value) or ".mlp." in key


@pytest.mark.parametrize("layout", ["openai", "huggingface"])
def test_messages_give_shapes_in_the_layout_of_the_file(layout):
    state = write_state_dict(tower_weights(), layout)
    key = "text_projection" if layout == "openai" else "text_projection.weight"
    state[key] = torch.zeros(13, 5) if layout == "openai" else torch.zeros(5, 13)
    with pytest.raises(RTDError) as error:
        TextTower.from_state_dict(state, heads=3)
    found, needed = ("(13, 5)", "(12, 5)") if layout == "openai" else ("(5, 13)", "(5, 12)")
    assert str(error.value) == f"{key} has shape {found}, but a text tower of width 12 needs {needed}"


@pytest.mark.parametrize(
    ("layout", "key"),
    [
        *product(LAYOUTS, ["extra", "transformer.resblocks.0.ls_1.gamma"]),
        *product(
            ("huggingface", "rtd"), ["text_model.encoder.layers.0.extra"]
        ),  # in openai, it makes a Hugging Face one
    ],
)
def test_unexpected_key_is_named(layout, key):
    state, weights = user_state(layout)
    weights[key] = torch.zeros(1)
    with pytest.raises(RTDError, match=f"unexpected key {key}"):
        read_state_dict(state)


def test_a_block_left_out_is_named():
    weights = {key: value for key, value in tower_weights(layers=3).items() if ".resblocks.1." not in key}
    with pytest.raises(RTDError, match=r"missing key transformer\.resblocks\.1\."):
        read_state_dict(weights)


@pytest.mark.parametrize(("value", "kind"), [("text", "str"), (torch.zeros(5, dtype=torch.int64), "torch.int64")])
def test_values_that_are_not_weights_are_refused(value, kind):
    weights = {**tower_weights(), "ln_final.bias": value}
    with pytest.raises(RTDError, match=rf"ln_final\.bias is not a tensor of floating-point numbers, but {kind}"):
        read_state_dict(weights)


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ({}, "no keys at all"),
        ({"layers.0.weight": torch.zeros(1)}, r"found layers\.0\.weight"),
        ({AUTHORS: None}, f"found {AUTHORS}"),
        ({0: torch.zeros(1)}, "found 0"),
        ({"visual.transformer.resblocks.0.ln_1.weight": torch.zeros(1)}, "found visual"),
    ],
)
def test_weights_without_a_text_tower_are_refused(state, found):
    with pytest.raises(RTDError, match=f"not the weights of a CLIP text tower.*{found}"):
        read_state_dict(state)


SIGLIP_TEXT = {"context_length": 7, "vocab_size": 11, "width": 12, "heads": 3, "layers": 2, "pool_type": "last"}
SIGLIP_TEXT |= {"no_causal_mask": True, "proj_bias": True}


def test_relatives_of_clip_are_refused():
    siglip = open_clip.CustomTextCLIP(8, CLIP["vision_cfg"], SIGLIP_TEXT)
    decoder = {**CLIP["text_cfg"], "attn_pooler_heads": 1}
    vision = {**CLIP["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 1, "output_tokens": True}
    coca = open_clip.CoCa(12, decoder, {**CLIP["text_cfg"], "embed_cls": True, "output_tokens": True}, vision)
    huggingface = {"text_model.embeddings.token_embedding.weight": torch.zeros(1), "text_model.head.weight": 0}
    for state in (siglip.state_dict(), coca.state_dict(), huggingface):
        with pytest.raises(RTDError, match=r"a model with another text tower \(SigLIP, CoCa"):
            TextTower.from_state_dict(state, heads=3)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (float("nan"), torch.float32),
        (float("inf"), torch.float32),
        (-float("inf"), torch.float16),
        (float("nan"), torch.bfloat16),
        (float("nan"), torch.float8_e4m3fn),
    ],
)
def test_weights_that_are_not_finite_are_refused(layout, value, dtype):
    """A damaged file gave features of NaN, and an evaluation without an error."""
    weights = tower_weights()
    weights["transformer.resblocks.1.mlp.c_fc.weight"][3, 5] = value
    state = write_state_dict({name: weight.to(dtype) for name, weight in weights.items()}, layout)
    key = "resblocks.1.mlp.c_fc.weight" if layout == "openai" else "layers.1.mlp.fc1.weight"
    with pytest.raises(RTDError, match=rf"{key.replace('.', '[.]')} has infinite or NaN values"):
        read_state_dict(state)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sizes_are_read_from_a_state_dict(layout):
    state = write_state_dict(tower_weights(), layout)
    assert read_sizes(state) == (2, 12, 5)
    assert str(read_sizes(state)) == "2 layers of width 12 and features of size 5"
    (state["CLIPTextModelWithProjection"] if layout == "rtd" else state).pop(
        "text_projection" if layout == "openai" else "text_projection.weight"
    )
    assert read_sizes(state) is None
