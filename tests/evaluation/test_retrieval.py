"""Retrieval on a benchmark, compared with open_clip's own forward and ranks counted one by one."""

from dataclasses import replace
from io import BytesIO

import open_clip
import pytest
import torch
from PIL import Image
from rtd_adapters.lincir import LinCIR
from rtd_adapters.phi import Phi
from rtd_adapters.pic2word import Pic2Word
from torch.nn import functional as F

from rtd_plugin.clip.backbones import ImageEncoder
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation import encoding, feature_cache, image_features, ranking
from rtd_plugin.evaluation.benchmark import Benchmark, Query
from rtd_plugin.evaluation.image_features import ImageFeatures
from rtd_plugin.evaluation.retrieval import Retrieval

WIDTH = 64
VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 2}
CONDITIONS = ["is red instead", "costs $ 5", "has a dog", "no stripes, wider", "darker", "two of them", "x " * 90, ""]
PLACEHOLDER = 259


class Noise(Benchmark):
    """Twelve images of noise; every other query has its reference outside the gallery."""

    name = "noise"
    excludes_reference = True
    subset_recall_at = (1,)

    broken: str = ""

    def queries(self):
        queries = []
        for number, condition in enumerate(CONDITIONS):
            target = 2 * number % 7
            queries.append(
                Query(
                    reference=str(11 if number % 2 == 0 else 12 + number),
                    conditions=(condition,),
                    targets=(str(target),),
                    subset=(str(target), str(target + 1), str(target + 2)),
                    groups=("odd" if number % 2 else "even",),
                    target_caption=f"noise number {target}",
                )
            )
        return queries

    def gallery(self):
        return [str(number) for number in range(12)]

    def image(self, name):
        if name == self.broken:
            raise OSError("image file is truncated")
        pixels = torch.randint(256, (40, 36, 3), generator=torch.Generator().manual_seed(int(name)))
        return Image.fromarray(pixels.byte().numpy())


class Kept(Noise):
    name = "kept"
    excludes_reference = False


@pytest.fixture(scope="module")
def clip(randomise):
    return randomise(open_clip.CLIP(WIDTH, VISION, TEXT))


@pytest.fixture(scope="module")
def phi(randomise):
    return randomise(Phi(WIDTH, WIDTH)).requires_grad_(False)


@pytest.fixture(scope="module")
def preprocess():
    return open_clip.image_transform(32, is_train=False)


@pytest.fixture(scope="module")
def tower(clip):
    return TextTower.from_state_dict(clip.state_dict(), activation="gelu", heads=2)


@pytest.fixture
def retrieve(clip, phi, preprocess, tower, monkeypatch):
    monkeypatch.setattr(encoding, "BATCH", 5)  # neither images nor queries fill their last batch
    monkeypatch.setattr(image_features, "BATCHES", {"cpu": 5})

    def retrieve(benchmark, adapter=None, **options):
        encoder = ImageFeatures(ImageEncoder(clip.visual, preprocess))
        return Retrieval(benchmark, adapter or LinCIR(), encoder, phi, tower, **options)

    return retrieve


@torch.no_grad()
def encode_images(clip, preprocess, names):
    return torch.stack([clip.encode_image(preprocess(Noise().image(name))[None])[0] for name in names])


@torch.no_grad()
def composed_features(clip, phi, preprocess, prompts, placeholder=PLACEHOLDER):
    """open_clip's own text forward, with the placeholder's embedding replaced on the way."""
    tokenizer, features = open_clip.get_tokenizer("ViT-B-32"), []
    for query, prompt in zip(Noise().queries(), prompts, strict=True):
        pseudo_token = phi(encode_images(clip, preprocess, [query.reference]))[0]
        tokens = tokenizer([prompt])

        def replace_placeholder(module, inputs, output, pseudo_token=pseudo_token):
            return torch.where((inputs[0] == placeholder)[..., None], pseudo_token, output)

        hook = clip.token_embedding.register_forward_hook(replace_placeholder)
        features.append(clip.encode_text(tokens)[0])
        hook.remove()
    return torch.stack(features)


def ranks_one_by_one(queries, gallery, exclude):
    """Ranks by name in the gallery and in the subset, counted in plain Python."""
    overall, subset = [], []
    for feature, query in zip(queries, Noise().queries(), strict=True):
        score = {str(n): float(F.cosine_similarity(feature, image, dim=0)) for n, image in enumerate(gallery)}
        (target,) = query.targets
        rivals = [name for name in score if name != target and not (exclude and name == query.reference)]
        overall.append(1 + sum(score[name] >= score[target] for name in rivals))
        subset.append(1 + sum(score[name] > score[target] for name in query.subset))
    return overall, subset


def assert_ranks(found, expected):
    assert (found.rankings.first.tolist(), found.subset.first.tolist()) == expected
    assert len(set(found.rankings.first.tolist())) > 2  # not all alike


def test_image_features(retrieve, clip, preprocess):
    found = retrieve(Noise())
    gallery = encode_images(clip, preprocess, Noise().gallery())
    references = encode_images(clip, preprocess, [query.reference for query in Noise().queries()])
    cosines = F.normalize(references, dim=-1) @ F.normalize(gallery, dim=-1).T
    scores = found.gallery.rank(F.normalize(references, dim=-1), [[]] * 8, depth=12)
    torch.testing.assert_close(scores.scores, cosines.gather(1, scores.top), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.references, references, atol=1e-5, rtol=1e-5)


def test_pseudo_tokens_are_of_features_that_are_not_normalised(retrieve, clip, phi, preprocess):
    references = encode_images(clip, preprocess, [query.reference for query in Noise().queries()])
    torch.testing.assert_close(retrieve(Noise()).pseudo_tokens, phi(references), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("benchmark", [Noise, Kept])
def test_ranks(retrieve, clip, phi, tower, preprocess, benchmark):
    """Of composed queries, and with the image, the condition or the target's caption alone."""
    found = retrieve(benchmark())
    gallery = encode_images(clip, preprocess, Noise().gallery())
    queries = Noise().queries()
    tokenizer = open_clip.get_tokenizer("ViT-B-32")

    def expected_ranks(features):
        return ranks_one_by_one(features, gallery, benchmark.excludes_reference)

    def texts(*texts):
        with torch.no_grad():
            return clip.encode_text(tokenizer([text.replace("$", "") for text in texts]))

    prompts = [f"a photo of $ that {condition.replace('$', ' ')}" for condition in CONDITIONS]
    assert_ranks(found.rank_composed(tower), expected_ranks(composed_features(clip, phi, preprocess, prompts)))
    assert_ranks(found.rank_by_condition(tower), expected_ranks(texts(*CONDITIONS)))
    assert_ranks(
        found.rank_by_target_caption(tower), expected_ranks(texts(*(query.target_caption for query in queries)))
    )
    references = encode_images(clip, preprocess, [query.reference for query in queries])
    assert_ranks(found.rank_by_image(), expected_ranks(references))


def test_a_reference_that_is_kept_comes_first(retrieve):
    with_reference, without = retrieve(Kept()).rank_by_image(), retrieve(Noise()).rank_by_image()
    assert (with_reference.rankings.first - without.rankings.first).tolist() == [1, 0] * 4


def test_a_gallery_in_files_is_ranked_as_one_in_memory(clip, phi, preprocess, tower, monkeypatch, tmp_path):
    """To the last digit: features are read from the cache's files in blocks, each time that they are needed."""

    class Stamped(Noise):
        def stamp(self, name):
            return name

    monkeypatch.setattr(feature_cache, "SHARD", 5)
    monkeypatch.setattr(ranking, "BLOCK", 4 * WIDTH)
    read, read_shard = [], feature_cache.FeatureCache.read_shard
    monkeypatch.setattr(
        feature_cache.FeatureCache, "read_shard", lambda self, path: read.append(path) or read_shard(self, path)
    )
    results = []
    for limit in (2**28, 0):
        monkeypatch.setattr(ranking, "IN_MEMORY", limit)
        images = ImageFeatures(ImageEncoder(clip.visual, preprocess), folder=tmp_path)
        retrieval = Retrieval(Stamped(), LinCIR(), images, phi, tower)
        read.clear()
        results.append((retrieval.rank_by_image(), retrieval.rank_composed(tower)))
        assert bool(read) == (limit == 0)
    for in_memory, in_files in zip(*results, strict=True):
        for kind in ("rankings", "subset"):
            for name in ("ranks", "first", "top", "scores"):
                one, other = (getattr(getattr(result, kind), name) for result in (in_memory, in_files))
                assert torch.equal(one, other), (kind, name)


def test_progress_counts_references_outside_the_gallery(retrieve):
    reported = []
    retrieve(Noise(), advance=lambda done, total: reported.append((done, total)))
    assert reported == [(5, 16), (10, 16), (15, 16), (16, 16)]


def change_benchmark(**changes):
    """The benchmark with its first query or its gallery changed."""

    class Changed(Noise):
        def queries(self):
            first, *rest = super().queries()
            return changes.get("queries", [replace(first, **changes.get("query", {})), *rest])

        def gallery(self):
            return changes.get("gallery", super().gallery())

    return Changed()


@pytest.mark.parametrize(
    ("benchmark", "says"),
    [
        (
            change_benchmark(query={"targets": ("99",)}),
            "noise: 99, a query's target or candidate, is not in the gallery",
        ),
        (
            change_benchmark(query={"subset": ("0", "98")}),
            "noise: 98, a query's target or candidate, is not in the gallery",
        ),
        (
            change_benchmark(query={"subset": ("1", "2")}),
            "noise: the target 0 of a query is not among its candidates",
        ),
        (change_benchmark(query={"reference": "0"}), "noise: 0 is the reference and a target of a query"),
        (change_benchmark(query={"reference": "cat.jpg"}), "noise: the image cat.jpg cannot be read"),
        (change_benchmark(query={"targets": ()}), "noise: some queries have targets and some have none"),
        (change_benchmark(query={"subset": ()}), "noise: some queries have a subset and some have none"),
        (change_benchmark(queries=[]), "noise: no queries"),
        (change_benchmark(gallery=[*Noise().gallery(), "3"]), "noise: 3 is in the gallery more than once"),
        (Noise(broken="7"), r"noise: the image 7 cannot be read \(OSError: image file is truncated\)"),
    ],
)
def test_faults_of_a_benchmark(retrieve, benchmark, says):
    with pytest.raises(RTDError, match=says):
        retrieve(benchmark).rank_by_image()


def test_a_file_that_breaks_while_it_is_decoded(retrieve):
    """Pillow opens the file's head and fails on the rest only when the preprocessing asks for it."""
    whole = BytesIO()
    Noise().image("0").save(whole, "png")
    half = BytesIO(whole.getvalue()[: whole.tell() // 2])

    class Lazy(Noise):
        def image(self, name):
            return Image.open(half) if name == "3" else super().image(name)

    with pytest.raises(RTDError, match="noise: the image 3 cannot be read"):
        retrieve(Lazy())


def test_all_broken_images_are_named(retrieve):
    class Broken(Noise):
        def image(self, name):
            if int(name) % 2:
                raise OSError("no header")
            return super().image(name)

    says = r"noise: 10 images cannot be read: 1, 3, 5, 7, 9, … \(1: OSError: no header\)"
    with pytest.raises(RTDError, match=says):
        retrieve(Broken())


def test_benchmarks_without_subsets_captions_and_groups(retrieve, tower):
    queries = [replace(query, subset=(), target_caption="", groups=()) for query in Noise().queries()]
    found = retrieve(change_benchmark(queries=queries))
    assert found.rank_by_target_caption(tower) is None
    assert found.rank_by_image().compute_metrics().keys() == {"recall_at_1", "recall_at_5", "recall_at_10"}


def test_a_split_without_targets_is_ranked_but_has_no_metrics(retrieve, tower):
    queries = [replace(query, targets=(), id=str(number)) for number, query in enumerate(Noise().queries())]
    secret, known = (
        retrieve(change_benchmark(queries=queries)).rank_composed(tower),
        retrieve(Noise()).rank_composed(tower),
    )
    assert torch.equal(secret.rankings.top, known.rankings.top)
    ranked = secret.list_ranked_names()
    assert [each.query.id for each in ranked] == [str(number) for number in range(8)]
    assert len(ranked[0].names) == 11  # of 12, the reference is left out
    assert len(ranked[1].names) == 12
    assert set(ranked[0].subset) == set(queries[0].subset)
    assert ranked[0].subset == sorted(ranked[0].subset, key=ranked[0].names.index)
    assert secret.per_query is None
    with pytest.raises(RTDError, match="noise: no metrics: the targets of this split are kept secret"):
        secret.compute_metrics()


def test_ranks_among_candidates_equal_those_in_a_smaller_gallery(retrieve, tower):
    """Ranks among a query's candidates are those in a benchmark with no other images."""

    class Few(Noise):
        def gallery(self):
            return ["0", "2", "4", "6", "8", "10", "1", "3", "5"]

    few = tuple(Few().gallery())
    queries = [replace(query, subset=(), candidates=few) for query in Noise().queries()]
    plain = [replace(query, subset=()) for query in Noise().queries()]
    among = retrieve(change_benchmark(queries=queries)).rank_composed(tower)
    alone = retrieve(type("Alone", (Few,), {"queries": lambda self: plain})()).rank_composed(tower)
    assert torch.equal(among.rankings.first, alone.rankings.first)
    assert max(map(len, (each.names for each in among.list_ranked_names()))) == len(few)


PAIRS = [("is red.", "has a dog?"), ("darker", "two of them, "), *[("wider", "no stripes")] * 6]


@pytest.mark.parametrize("adapter", [LinCIR, Pic2Word])
def test_two_conditions(retrieve, clip, phi, tower, preprocess, adapter):
    """Both orders averaged after normalising, or the second condition first."""
    queries = [replace(query, conditions=pair) for query, pair in zip(Noise().queries(), PAIRS, strict=True)]
    found = retrieve(change_benchmark(queries=queries), adapter()).rank_composed(tower)
    if adapter is LinCIR:
        stripped = [[part.strip(".?, ") for part in pair] for pair in PAIRS]
        orders = [[f"a photo of $ that {one} and {two}" for one, two in stripped]]
        orders += [[f"a photo of $ that {two} and {one}" for one, two in stripped]]
        features = sum(F.normalize(composed_features(clip, phi, preprocess, order), dim=-1) for order in orders)
    else:
        prompts = [f"a photo of * , {two} and {one}" for one, two in PAIRS]
        features = composed_features(clip, phi, preprocess, prompts, 265)
    gallery = F.normalize(encode_images(clip, preprocess, Noise().gallery()), dim=-1)
    cosines = F.normalize(features, dim=-1) @ gallery.T
    rows = found.rankings.top.clamp(min=0)
    is_image = found.rankings.top >= 0
    torch.testing.assert_close(found.rankings.scores[is_image], cosines.gather(1, rows)[is_image], atol=1e-5, rtol=1e-5)


def test_two_conditions_for_only_some_queries_are_refused(retrieve):
    with pytest.raises(RTDError, match="noise: all queries need one condition, or all need two"):
        retrieve(change_benchmark(query={"conditions": ("is red", "is big")}))


def test_the_text_query_has_both_conditions(retrieve, tower):
    queries = [replace(query, conditions=("is red", "is big")) for query in Noise().queries()]
    joined = [replace(query, conditions=("is red and is big",)) for query in Noise().queries()]
    two, one = (
        retrieve(change_benchmark(queries=some)).rank_by_condition(tower).rankings for some in (queries, joined)
    )
    assert torch.equal(two.top, one.top)


def test_a_long_condition_is_cut_so_that_several_pseudo_tokens_fit(retrieve, tower):
    """The prompt has 5 tokens: beside them, two pseudo tokens, start and end, 69 are left for a condition."""
    tops = []
    for words in (69, 70, 90):
        found = retrieve(change_benchmark(query={"conditions": ("x " * words,)}))
        found.pseudo_tokens = torch.stack([found.pseudo_tokens, -found.pseudo_tokens], dim=1)
        tops.append(found.rank_composed(tower).rankings.scores)
    assert torch.equal(tops[0], tops[1])
    assert torch.equal(tops[0], tops[2])
