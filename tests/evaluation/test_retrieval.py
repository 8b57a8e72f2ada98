"""Retrieval on a benchmark, against open_clip's own forward and ranks counted one by one."""

from dataclasses import replace
from io import BytesIO

import open_clip
import pytest
import torch
from PIL import Image
from rtd_adapters.lincir import LinCIR, Phi
from torch.nn import functional as F

from rtd_plugin.clip.backbones import ImageEncoder
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation import retrieval
from rtd_plugin.evaluation.benchmark import Benchmark, Query
from rtd_plugin.evaluation.retrieval import Ranks, Retrieval

WIDTH = 64
VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 2}
CONDITIONS = ["is red instead", "costs $ 5", "has a dog", "no stripes, wider", "darker", "two of them", "x " * 90, ""]
PLACEHOLDER = 259


class Noise(Benchmark):
    """Twelve pictures of noise; the first of two queries has its reference in the gallery, the second has not."""

    name = "noise"
    excludes_reference = True

    broken: str = ""

    def queries(self):
        queries = []
        for number, condition in enumerate(CONDITIONS):
            target = 2 * number % 7
            queries.append(
                Query(
                    reference=str(11 if number % 2 == 0 else 12 + number),
                    condition=condition,
                    target=str(target),
                    subset=(str(target), str(target + 1), str(target + 2)),
                    group="odd" if number % 2 else "even",
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
def clip(randomised):
    return randomised(open_clip.CLIP(WIDTH, VISION, TEXT))


@pytest.fixture(scope="module")
def phi(randomised):
    return randomised(Phi(WIDTH, WIDTH)).requires_grad_(False)


@pytest.fixture(scope="module")
def preprocess():
    return open_clip.image_transform(32, is_train=False)


@pytest.fixture(scope="module")
def tower(clip):
    return TextTower.from_state_dict(clip.state_dict(), activation="gelu", heads=2)


@pytest.fixture
def retrieve(clip, phi, preprocess, monkeypatch):
    monkeypatch.setattr(retrieval, "BATCH", 5)  # neither the images nor the queries fill their last batch
    return lambda benchmark, **options: Retrieval(
        benchmark, LinCIR(), ImageEncoder(clip.visual, preprocess), phi, **options
    )


@torch.no_grad()
def image_features(clip, preprocess, names):
    return torch.stack([clip.encode_image(preprocess(Noise().image(name))[None])[0] for name in names])


@torch.no_grad()
def composed_features(clip, phi, preprocess):
    """open_clip's own text forward, with the placeholder's embedding replaced on the way."""
    tokenizer, features = open_clip.get_tokenizer("ViT-B-32"), []
    for query in Noise().queries():
        pseudo_token = phi(image_features(clip, preprocess, [query.reference]))[0]
        condition = query.condition.replace("$", " ")
        tokens = tokenizer([f"a photo of $ that {condition}"])

        def replace_placeholder(module, inputs, output, pseudo_token=pseudo_token):
            return torch.where((inputs[0] == PLACEHOLDER)[..., None], pseudo_token, output)

        hook = clip.token_embedding.register_forward_hook(replace_placeholder)
        features.append(clip.encode_text(tokens)[0])
        hook.remove()
    return torch.stack(features)


def ranks_one_by_one(queries, gallery, exclude):
    """Ranks by name in the gallery and in the subset, counted in plain Python."""
    overall, subset = [], []
    for feature, query in zip(queries, Noise().queries(), strict=True):
        score = {str(n): float(F.cosine_similarity(feature, image, dim=0)) for n, image in enumerate(gallery)}
        rivals = [name for name in score if name != query.target and not (exclude and name == query.reference)]
        overall.append(1 + sum(score[name] >= score[query.target] for name in rivals))
        subset.append(1 + sum(score[name] > score[query.target] for name in query.subset))
    return overall, subset


def assert_ranks(ranks, expected):
    assert (ranks.overall.tolist(), ranks.subset.tolist()) == expected
    assert len(set(ranks.overall.tolist())) > 2  # not all alike


def test_image_features(retrieve, clip, preprocess):
    found = retrieve(Noise())
    gallery = image_features(clip, preprocess, Noise().gallery())
    references = image_features(clip, preprocess, [query.reference for query in Noise().queries()])
    torch.testing.assert_close(found.gallery, F.normalize(gallery, dim=-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.references, references, atol=1e-5, rtol=1e-5)


def test_pseudo_tokens_are_of_features_that_are_not_normalised(retrieve, clip, phi, preprocess):
    references = image_features(clip, preprocess, [query.reference for query in Noise().queries()])
    torch.testing.assert_close(retrieve(Noise()).pseudo_tokens, phi(references), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("benchmark", [Noise, Kept])
def test_ranks(retrieve, clip, phi, tower, preprocess, benchmark):
    """Of composed queries, and with the image, the condition or the target's caption alone."""
    found = retrieve(benchmark())
    gallery = image_features(clip, preprocess, Noise().gallery())
    queries = Noise().queries()
    tokenizer = open_clip.get_tokenizer("ViT-B-32")

    def expected(features):
        return ranks_one_by_one(features, gallery, benchmark.excludes_reference)

    def texts(*texts):
        with torch.no_grad():
            return clip.encode_text(tokenizer([text.replace("$", "") for text in texts]))

    assert_ranks(found.composed(tower), expected(composed_features(clip, phi, preprocess)))
    assert_ranks(found.text_only(tower), expected(texts(*CONDITIONS)))
    assert_ranks(found.target_captions(tower), expected(texts(*(query.target_caption for query in queries))))
    references = image_features(clip, preprocess, [query.reference for query in queries])
    assert_ranks(found.image_only(), expected(references))


def test_a_reference_that_is_kept_comes_first(retrieve):
    with_reference, without = retrieve(Kept()).image_only(), retrieve(Noise()).image_only()
    assert (with_reference.overall - without.overall).tolist() == [1, 0] * 4


def test_progress_counts_references_outside_the_gallery(retrieve):
    reported = []
    retrieve(Noise(), report=lambda done, total: reported.append((done, total)))
    assert reported == [(5, 16), (10, 16), (15, 16), (16, 16)]


def changed(**changes):
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
        (changed(query={"target": "99"}), "noise: 99, a query's target or candidate, is not in the gallery"),
        (changed(query={"subset": ("0", "98")}), "noise: 98, a query's target or candidate, is not in the gallery"),
        (changed(query={"subset": ("1", "2")}), "the subset of query 0 lacks its target"),
        (changed(query={"reference": "0"}), "the target of query 0 is excluded from its ranking"),
        (changed(query={"reference": "cat.jpg"}), "noise: the image cat.jpg cannot be read"),
        (changed(queries=[]), "noise: there are no queries"),
        (changed(gallery=[*Noise().gallery(), "3"]), "noise: 3 is in the gallery more than once"),
        (Noise(broken="7"), r"noise: the image 7 cannot be read \(OSError: image file is truncated\)"),
    ],
)
def test_faults_of_a_benchmark(retrieve, benchmark, says):
    with pytest.raises(RTDError, match=says):
        retrieve(benchmark).image_only()


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


def test_benchmarks_without_subsets_captions_and_groups(retrieve, tower):
    queries = [replace(query, subset=(), target_caption="", group="") for query in Noise().queries()]
    found = retrieve(changed(queries=queries))
    assert found.target_captions(tower) is None
    assert found.image_only().metrics().keys() == {"recall_at_1", "recall_at_5", "recall_at_10"}


RANKS = Ranks(torch.tensor([1, 2, 6, 11]), torch.tensor([1, 1, 2, 1]), ["a", "b", "", "b"])
WORSE = Ranks(torch.tensor([2, 2, 11, 11]), torch.tensor([1, 2, 2, 2]), ["a", "b", "", "b"])


def test_metrics():
    """By hand; a query without a group counts in the whole alone."""
    assert RANKS.metrics() == {
        "recall_at_1": 25.0,
        "recall_at_5": 50.0,
        "recall_at_10": 75.0,
        "subset_recall_at_1": 75.0,
        "a": {"recall_at_1": 100.0, "recall_at_5": 100.0, "recall_at_10": 100.0, "subset_recall_at_1": 100.0},
        "b": {"recall_at_1": 0.0, "recall_at_5": 50.0, "recall_at_10": 50.0, "subset_recall_at_1": 100.0},
    }


def test_gain():
    """The interval is paired: where every query gains the same, it has no width."""
    gain = RANKS.gain_over(WORSE)
    assert {name: value["difference"] for name, value in gain.items() if name not in "ab"} == {
        "recall_at_1": 25.0,
        "recall_at_5": 0.0,
        "recall_at_10": 25.0,
        "subset_recall_at_1": 50.0,
    }
    assert gain["recall_at_1"]["low"] == 0 < 25 < gain["recall_at_1"]["high"] <= 100
    assert gain["recall_at_5"] == {"difference": 0.0, "low": 0.0, "high": 0.0}
    assert gain["a"]["recall_at_1"] == {"difference": 100.0, "low": 100.0, "high": 100.0}
    assert gain["b"]["subset_recall_at_1"] == {"difference": 100.0, "low": 100.0, "high": 100.0}
    assert WORSE.gain_over(RANKS)["recall_at_1"]["difference"] == -25.0
