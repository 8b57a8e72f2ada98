"""The content of the benchmark, none of which is in training."""

import hashlib
import random
import re
from dataclasses import astuple, replace

import pytest

from rtd_plugin.miniature.benchmark import MiniatureBenchmark
from rtd_plugin.miniature.phrasings import PATTERNS, REFERENTS, UNSEEN_WORDS, WRAPPERS
from rtd_plugin.miniature.rendering import render
from rtd_plugin.miniature.splits import draw_training_scenes, list_reserved, split
from rtd_plugin.miniature.triplets import MiniatureTriplets
from rtd_plugin.miniature.world import HELD_OUT, KINDS, SHAPES, Scene


@pytest.fixture(params=["development", "test"])
def benchmark(request):
    return MiniatureBenchmark(split=request.param)


@pytest.fixture(scope="module")
def triplets():
    return MiniatureTriplets().load().triplets


def test_targets_are_in_the_gallery_and_references_are_not(benchmark):
    queries, gallery = benchmark.queries(), benchmark.gallery()
    assert len(queries) == 1000
    assert len(gallery) > 3000
    assert len(set(gallery)) == len(gallery)
    assert {target for query in queries for target in query.targets} <= set(gallery)
    assert not {query.reference for query in queries} & set(gallery)


def test_condition_leads_from_reference_to_target(benchmark):
    tasks = split(benchmark.split).tasks
    for query, task in zip(benchmark.queries(), tasks, strict=True):
        assert (str(task.edit.apply(Scene.parse(query.reference))),) == query.targets
        assert query.groups == (task.group,)
    assert {task.edit.kind for task in tasks} == set(KINDS)


def test_subset_is_the_target_and_two_siblings(benchmark):
    gallery = set(benchmark.gallery())
    for query, task in zip(benchmark.queries(), split(benchmark.split).tasks, strict=True):
        assert len(set(query.subset)) == 3
        assert set(query.subset) <= gallery
        assert query.targets[0] in query.subset
        assert query.reference not in query.subset
        assert {str(edit.apply(task.reference)) for edit in (task.edit, *task.siblings)} == set(query.subset)


def one_edit_apart(one, other):
    """Whether two scenes differ in the background, in one attribute of one thing, or by one thing."""
    changed = sorted(map(astuple, set(one.things) ^ set(other.things)))
    if one.background != other.background:
        return not changed
    if len(changed) == 2:
        return sum(a != b for a, b in zip(*changed, strict=True)) == 1
    return len(changed) == 1


def test_every_target_has_a_distractor_one_edit_away(benchmark):
    gallery = [Scene.parse(name) for name in benchmark.gallery()]
    for query in benchmark.queries()[:200]:
        target = Scene.parse(query.targets[0])
        assert any(one_edit_apart(target, scene) for scene in gallery)


def test_each_reference_has_a_query_in_each_phrasing(benchmark):
    queries = benchmark.queries()
    assert [query.groups for query in queries] == [("seen",), ("unseen",)] * 500
    assert [query.reference for query in queries[::2]] == [query.reference for query in queries[1::2]]


def test_no_two_pictures_of_the_gallery_are_equal(benchmark):
    pictures = {benchmark.image(name).tobytes() for name in benchmark.gallery()}
    assert len(pictures) == len(benchmark.gallery())


def test_an_image_is_the_picture_of_its_name(benchmark):
    name = benchmark.queries()[0].reference
    assert benchmark.image(name).tobytes() == render(Scene.parse(name)).tobytes()


def test_queries_include_held_out_pairs():
    targets = [Scene.parse(query.targets[0]) for query in MiniatureBenchmark().queries()]
    pairs = {(thing.colour, thing.shape) for scene in targets for thing in scene.things}
    assert pairs >= HELD_OUT
    assert sum(scene.is_held_out for scene in targets) > 100


def test_splits_share_no_scene():
    development, test = (MiniatureBenchmark(split=name) for name in ("development", "test"))
    scenes = [{*b.gallery(), *(query.reference for query in b.queries())} for b in (development, test)]
    assert not scenes[0] & scenes[1]
    assert {str(scene) for scene in list_reserved()} == scenes[0] | scenes[1]


def test_training_scenes_are_new():
    scenes = draw_training_scenes(random.Random(0))
    for _ in range(2000):
        scene = next(scenes)
        assert scene not in list_reserved()
        assert not {(thing.colour, thing.shape) for thing in scene.things} & HELD_OUT


def test_training_words_name_no_held_out_pair(triplets):
    texts = {text for triplet in triplets for text in (triplet.reference, triplet.target)}
    assert not [t for t in texts for colour, shape in HELD_OUT if f"{colour} {shape}" in t]


def test_triplets_share_no_unseen_phrasing(triplets):
    conditions = {triplet.condition for triplet in triplets}
    assert len(conditions) > len(triplets) / 2
    for name in ("development", "test"):
        unseen = {
            query.conditions[0] for query in MiniatureBenchmark(split=name).queries() if query.groups == ("unseen",)
        }
        assert len(unseen) > 400
        assert not conditions & unseen


def test_triplets_have_no_word_that_only_unseen_phrasings_have(triplets):
    """The words are collected from the patterns here once more."""

    def words(group):
        patterns = [pattern for patterns in PATTERNS[group].values() for pattern in patterns]
        texts = [*patterns, *WRAPPERS[group], *REFERENTS[group]]
        return {word for text in texts for word in text.split() if word.isalpha()}

    new = words("unseen") - words("seen")
    assert {"erase", "backdrop", "swap", "version"} <= new
    assert not [triplet for triplet in triplets if new.intersection(re.findall("[a-z]+", triplet.condition))]


def test_no_triplet_has_an_unseen_pattern(triplets):
    """All unseen patterns but one have a word that training never has."""
    patterns = [pattern for patterns in PATTERNS["unseen"].values() for pattern in patterns]
    rest = [pattern for pattern in patterns if UNSEEN_WORDS.isdisjoint(pattern.split())]
    assert rest == ["have a {comparative} {shape}"]
    pattern = re.compile(rf"\bhave a (smaller|larger|bigger) ({'|'.join(SHAPES)})\b")
    assert not [triplet for triplet in triplets if pattern.search(triplet.condition)]


def test_half_of_the_conditions_are_by_the_grammar(triplets):
    """Only the miniature's own phrasings have the wrapper "same picture but", in a known share of them."""
    wrapped = sum("same picture but" in triplet.condition for triplet in triplets)
    share = WRAPPERS["seen"].count("same picture but {}") / len(WRAPPERS["seen"])
    assert wrapped / len(triplets) == pytest.approx(share / 2, rel=0.2)
    assert any("target on" in triplet.condition for triplet in triplets)


def test_usual_queries_have_not_changed():
    """Figures of different versions are comparable."""
    digests = {
        (name, count): hashlib.sha256(
            repr(MiniatureBenchmark(split=name, wordings=count).queries()).encode()
        ).hexdigest()[:16]
        for name in ("development", "test")
        for count in (1, 6)
    }
    assert digests == {
        ("development", 1): "d51ab52ae0cb07ff",
        ("development", 6): "7e9e3ab108fa0be5",
        ("test", 1): "1f24d9c132396127",
        ("test", 6): "0096192d616c88b8",
    }


def test_independent_phrasings_change_conditions_alone(benchmark):
    independent = benchmark.model_copy(update={"phrasings": "independent"})
    assert independent.gallery() == benchmark.gallery()
    differing = 0
    for usual, query in zip(benchmark.queries(), independent.queries(), strict=True):
        assert query == replace(usual, conditions=query.conditions, groups=("independent",))
        differing += query.conditions != usual.conditions
    assert differing > 900


def test_several_independent_wordings_begin_with_the_query(benchmark):
    queries = benchmark.model_copy(update={"phrasings": "independent"}).queries()
    wordings = benchmark.model_copy(update={"phrasings": "independent", "wordings": 6}).queries()
    by_request = {}
    for wording in wordings:
        assert wording.groups == ("independent",)
        by_request.setdefault(wording.request, []).append(wording.conditions)
    assert [conditions[0] for conditions in by_request.values()] == [query.conditions for query in queries]
    assert all(len(set(conditions)) == 6 for conditions in by_request.values())


def test_triplets_are_reproducible():
    first, again, other = (MiniatureTriplets(count=200, seed=seed).load() for seed in (0, 0, 1))
    assert first == again
    assert first.digest != other.digest
    assert MiniatureTriplets(count=50, seed=0).load().triplets == first.triplets[:50]
    assert first.skipped == 0


def test_importing_the_miniature_imports_no_torch():
    """The command line lists plugins without waiting for torch."""
    import subprocess
    import sys

    code = "import sys, rtd_plugin.miniature.benchmark, rtd_plugin.miniature.triplets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_wordings_of_a_request_follow_each_other_with_the_same_captions():
    triplets = MiniatureTriplets(count=200, wordings=3).load().triplets
    requests = [triplets[first : first + 3] for first in range(0, 600, 3)]
    assert len(triplets) == 600
    assert all(len({(triplet.reference, triplet.target) for triplet in request}) == 1 for request in requests)
    assert sum(len({triplet.condition for triplet in request}) > 1 for request in requests) > 190
