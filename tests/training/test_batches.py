"""The tokens of a batch's texts."""

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rtd_adapters.lincir import LinCIR

from rtd_plugin.clip.tokens import END, START, Prompt, encode_text, pad
from rtd_plugin.training.batches import fill_rows, make_batch
from rtd_plugin.triplets.ragged import Ragged
from rtd_plugin.triplets.triplet import Triplet


def test_a_batch_has_cleaned_captions_and_the_methods_prompts(adapter, tokenise_batch):
    triplets = [
        Triplet("  A <PERSON> pays $5 ", "Pays $10 instead", "A person pays ten"),
        Triplet("two dogs", "one dog", "one dog and " + "very " * 100 + "old"),
    ]
    batch = make_batch(tokenise_batch(triplets, adapter.prompt), adapter, 77)
    assert torch.equal(batch.references, pad([encode_text("a person pays 5"), encode_text("two dogs")]))
    assert batch.targets.shape == (2, 77)
    assert batch.targets[1, -1] == END
    assert batch.queries[0].tolist() == [START, *encode_text("a photo of $ that pays 10 instead"), END]
    assert (batch.queries == 259).sum(dim=1).tolist() == [1, 1]
    assert batch.queries.dtype == torch.int64
    assert torch.equal(batch.unconditioned, pad([encode_text("a photo of $")] * 2))


def test_a_batch_of_concatenated_texts(adapter, tokenise_batch):
    triplets = [Triplet("Two DOGS", "one dog", "a dog")]
    batch = make_batch(tokenise_batch(triplets, adapter.prompt), adapter, 77, projected=False)
    assert batch.queries[0].tolist() == [START, *encode_text("a photo of two dogs that one dog"), END]
    assert batch.unconditioned[0].tolist() == [START, *encode_text("a photo of two dogs"), END]


@pytest.mark.parametrize("context_length", [3, 8])
def test_a_batch_fits_a_short_context(adapter, triplets, tokenise_batch, context_length):
    batch = make_batch(tokenise_batch(triplets[:3], adapter.prompt), adapter, context_length)
    for tokens in (batch.references, batch.targets, batch.queries):
        assert tokens.shape[1] == context_length
        assert (tokens[:, -1] == END).all()


@pytest.mark.parametrize("template", ["a photo of $ that {condition}", "$ $ $ and {condition}"])
def test_a_long_condition_leaves_room_for_several_pseudo_tokens(tower, tokenise_batch, template):
    class Method(LinCIR):
        prompt = Prompt(template)

    triplets = [Triplet("a dog", "very " * 100, "a cat"), Triplet("a dog", "red", "a cat")]
    batch = make_batch(tokenise_batch(triplets, Method.prompt), Method(), 77, pseudo_tokens=3)
    assert batch.queries.shape[1] == (75 if "photo" in template else 77)
    assert batch.queries.max(dim=1).values.tolist() == [END, END]
    assert tower.encode(batch.queries, torch.randn(2, 3, tower.width)).isfinite().all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 9), max_size=9), min_size=1, max_size=5),
    st.lists(st.sampled_from([20, 21, -1]), max_size=6),
    st.integers(2, 14),
)
def test_rows_are_filled_as_prompts_are(texts, template, context_length):
    ragged = Ragged(np.array([*chain(*texts)], np.uint16), np.array([*map(len, texts)]))
    expected = pad(
        [[token for item in template for token in ([item] if item > 0 else text)] for text in texts], context_length
    )
    assert torch.equal(fill_rows(template, {-1: ragged}, context_length), expected)


def test_a_prompt_that_repeats_its_condition(tokenise_batch, adapter):
    prompt = Prompt("$ is {condition} and {condition}")
    assert prompt.fill(condition=[-1]).count(-1) == 2
