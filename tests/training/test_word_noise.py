"""Random words in conditions."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rtd_plugin.clip.tokens import START, Prompt, encode_text
from rtd_plugin.training.batches import RunBatches, make_batch
from rtd_plugin.training.word_noise import replace_words
from rtd_plugin.triplets.triplet import Triplet

VOCABULARY = 49408
PROMPT = Prompt("a photo of $ that {condition}")


@pytest.fixture
def add_noise(tokenise_batch):
    """Return the conditions' tokens before and after, a list for each triplet."""

    def add_noise(triplets, share, seed=0, vocabulary=VOCABULARY, placeholder=259):
        before = tokenise_batch(triplets, PROMPT)
        after = replace_words(before, share, seed, vocabulary, placeholder)
        for one, other in zip((*before[:1], *before[2:]), (*after[:1], *after[2:]), strict=True):
            assert one is other
        assert after.conditions.values.dtype == np.uint16
        assert np.array_equal(after.conditions.lengths, before.conditions.lengths)
        splits = np.cumsum(before.conditions.lengths)[:-1]
        return [np.split(batch.conditions.values, splits) for batch in (before, after)]

    return add_noise


def test_only_words_that_neither_caption_has_are_replaced(add_noise):
    triplets = [
        Triplet("a red dog", "turn the red dog into a cat", "a cat"),
        Triplet("a cat", "turn the red dog into a cat", "the sea"),  # other captions of the batch count as well as none
    ]
    before, after = add_noise(triplets, share=1)
    for text, kept, row_before, row_after in zip(
        ("turn the red dog into a cat",) * 2,
        ({"red", "dog", "a", "cat"}, {"the", "a", "cat"}),
        before,
        after,
        strict=True,
    ):
        expected = [word in kept for word in text.split()]
        assert row_before.tolist() == encode_text(text)
        assert (row_before == row_after).tolist() == expected


def test_the_share_of_replaced_words_is_the_probability(add_noise):
    triplets = [Triplet("a dog", "swap it out for something else please", "a cat")] * 3000
    before, after = add_noise(triplets, share=0.2)
    changed = np.array(before) != np.array(after)
    assert changed.mean() == pytest.approx(0.2, abs=0.01)  # 5 standard deviations are 0.014
    assert changed.mean(axis=0) == pytest.approx(0.2, abs=0.04)
    drawn = np.array(after)[changed]
    assert len(np.unique(drawn)) > 0.9 * len(drawn)
    assert drawn.min() >= 512
    assert START - 100 < drawn.max() < START


def test_placeholders_and_words_that_the_tower_lacks_are_not_drawn(add_noise):
    triplets = [Triplet("a dog", "swap it out for something else please", "a cat")] * 100
    before, after = add_noise(triplets, share=1, vocabulary=516, placeholder=513)
    assert set(np.unique(after)) - set(np.unique(before)) == {512, 514, 515}


def test_a_draw_depends_on_its_seed_alone(add_noise):
    triplets = [Triplet("a dog", "swap it out for something else please", "a cat")] * 20
    one, same, other = (np.array(add_noise(triplets, 0.5, seed)[1]) for seed in (7, 7, 2**63))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_empty_texts(add_noise):
    assert [len(row) for row in add_noise([Triplet("", "", ""), Triplet("", "red", "")], 1)[1]] == [0, 1]


@pytest.mark.parametrize("noise", [0, 0.5])
def test_a_runs_batches_have_noise_in_their_conditions_alone(make_run, noise):
    run = make_run("run", f"wording.noise={noise}", "batch_size=8")
    frozen = SimpleNamespace(count_pseudo_tokens=lambda: (1, 1))
    batches = RunBatches(run, SimpleNamespace(process_index=0, num_processes=1), lambda *texts: texts[0], frozen)
    plain_run = make_run("plain", "batch_size=8")
    plain_batches = RunBatches(
        plain_run, SimpleNamespace(process_index=0, num_processes=1), lambda *texts: texts[0], frozen
    )
    for index in (0, 3):
        batch, plain = batches[index], plain_batches[index]
        expected = make_batch(run.triplets.gather(batch.rows.numpy()), run.adapter, 77)
        for name in ("rows", "noise", "references", "targets", "unconditioned"):
            assert torch.equal(getattr(batch, name), getattr(plain, name))
        for made, without in ((batch.queries, expected.queries), (batch.composed, plain.composed)):
            assert torch.equal(made, without) == (noise == 0)
    first, second = (batches[index].queries for index in (0, 120 // 8))
    assert torch.equal(first, batches[0].queries)
    assert first.shape != second.shape or not torch.equal(first, second)
