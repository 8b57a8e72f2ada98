"""`rtd_plugin.load`: composed queries and search from Python."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import rtd_plugin
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.evaluation.benchmarks.folder import Folder
from rtd_plugin.evaluation.retrieval import Retrieval
from rtd_plugin.workflows.loading import load_models

ADAPTERS = ["lincir", "pic2word", "searle"]


@pytest.fixture(scope="module")
def searcher(run, catalogue):
    return rtd_plugin.load(run, images=catalogue)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("tuned", [False, True])
def test_features_equal_those_of_evaluate_to_the_last_bit(run, catalogue, adapter, tuned, monkeypatch):
    """Of all images and of composed queries, with each shipped adapter, frozen and tuned."""
    options = {"recipe": f"{adapter}-miniature", "device": "cpu"}
    models = load_models(**options, weights=[run])
    benchmark = Folder(data=str(catalogue))
    retrieval = Retrieval(benchmark, models.adapter, models.images, models.projection, models.tower)
    evaluated = {}
    monkeypatch.setattr(retrieval, "rank", lambda features: evaluated.update(queries=F.normalize(features, dim=-1)))
    (tower,) = [load() for load in models.tuned.values()]
    retrieval.rank_composed(tower if tuned else models.tower)

    searcher = rtd_plugin.load(run, **options)
    searcher = searcher if tuned else searcher.frozen
    files = [catalogue / name for name in retrieval.names]
    images = searcher.encode_images(files, normalize=False)
    conditions = [query.conditions[0] for query in retrieval.queries]
    references = [images[retrieval.names.index(query.reference)] for query in retrieval.queries]
    assert torch.stack(references).equal(retrieval.references)
    assert searcher.compose(references, conditions).equal(evaluated["queries"])
    one_by_one = [
        searcher.compose(catalogue / query.reference, text)
        for query, text in zip(retrieval.queries, conditions, strict=True)
    ]
    torch.testing.assert_close(torch.stack(one_by_one), evaluated["queries"], atol=1e-6, rtol=0)


def test_frozen_and_tuned_differ(searcher, catalogue):
    tuned, frozen = (each.compose(catalogue / "1.png", "is red") for each in (searcher, searcher.frozen))
    assert not torch.allclose(tuned, frozen, atol=1e-4)
    assert searcher.frozen.compose(catalogue / "1.png", "is red").equal(frozen)


def test_every_form_of_an_image(searcher, catalogue):
    path = catalogue / "1.png"
    picture = Image.open(path).convert("RGB")
    feature = searcher.encode_images(path, normalize=False)
    expected = searcher.compose(path, "is red")
    assert expected.shape == feature.shape == (searcher.tower.features,)
    assert expected.norm().item() == pytest.approx(1)
    for image in (str(path), picture, np.asarray(picture), torch.tensor(np.asarray(picture)), feature, feature.numpy()):
        assert searcher.compose(image, "is red").equal(expected)
    with_alpha = Image.new("RGBA", (40, 30), (200, 0, 0, 255))
    assert searcher.compose(with_alpha, "is big").equal(searcher.compose(np.asarray(with_alpha), "is big"))


def test_a_picture_of_16_bits_is_not_white(searcher, tmp_path):
    greys = np.linspace(0, 255, 48 * 48).astype(np.uint8).reshape(48, 48)
    deep = Image.frombytes("I;16", (48, 48), (greys.astype("<u2") * 257).tobytes())
    deep.save(tmp_path / "deep.png")
    expected = searcher.encode_images(Image.fromarray(greys))
    for image in (deep, tmp_path / "deep.png", Image.open(tmp_path / "deep.png")):
        torch.testing.assert_close(searcher.encode_images(image), expected, atol=0.02, rtol=0)
    assert (searcher.encode_images(Image.new("L", (48, 48), 255)) - expected).abs().max() > 0.05
    with pytest.raises(RTDError, match="pixels in Pillow's mode F, of no known range"):
        searcher.encode_images(Image.new("F", (48, 48), 0.5))


def test_one_and_many(searcher, catalogue):
    paths = [catalogue / "1.png", catalogue / "2.png"]
    features = searcher.encode_images(paths, normalize=False)
    assert features.shape == (2, searcher.tower.features)
    torch.testing.assert_close(searcher.encode_images(paths), F.normalize(features, dim=-1))
    both = searcher.compose(paths, ["is red", "is big"])
    torch.testing.assert_close(searcher.compose([paths[0], features[1]], ["is red", "is big"]), both)
    assert searcher.compose(features, ["is red", "is big"]).equal(both)
    torch.testing.assert_close(searcher.compose(paths[0], ["is red", "is big"])[0], both[0])
    torch.testing.assert_close(searcher.compose(paths, "is big")[1], both[1])
    assert searcher.compose([paths[0]], "is red").shape == (1, searcher.tower.features)
    pictures = np.zeros((2, 20, 30, 3), np.uint8)
    assert searcher.compose(pictures, "is red").shape == (2, searcher.tower.features)


def test_search_gives_the_best_images_without_the_reference(searcher, catalogue):
    matches = searcher.search(catalogue / "2.png", "is red", k=50)
    names = [match.image for match in matches]
    assert sorted(names) == [*(f"{n}.png" for n in (0, 1, 3, 4, 5, 6, 7)), *(f"more/{n}.jpg" for n in range(4))]
    query = searcher.compose(catalogue / "2.png", "is red")
    scores = searcher.encode_images([catalogue / name for name in names]) @ query
    torch.testing.assert_close(torch.tensor([match.score for match in matches]), scores, atol=1e-6, rtol=0)
    assert scores.equal(scores.sort(descending=True).values)
    assert searcher.search(catalogue / "2.png", "is red", k=3) == matches[:3]
    many = searcher.search(catalogue / "2.png", ["is red", "is big"], k=3)
    assert [match.image for match in many[0]] == names[:3]
    assert len(searcher.search(Image.open(catalogue / "2.png"), "is red", k=50)) == 12


@pytest.mark.parametrize(
    ("image", "text", "says"),
    [
        ([], "is red", "an empty list"),
        (3, "is red", "a int is not a path, a PIL image"),
        (np.zeros((4, 4, 7), np.uint8), "is red", r"an array of uint8 with shape \(4, 4, 7\) is not a path"),
        (np.zeros((4, 4), np.int64), "is red", "an array of int64"),
        ([[np.ones(4)]], "is red", "a list may hold only single images"),
        (np.ones(3), "is red", "a feature of size 3, but this backbone's have 128"),
        ("1.png", [], "text: needs a condition"),
        ("1.png", 3, "text: needs a condition"),
        (["1.png"] * 2, ["is red"] * 3, "2 images and 3 texts"),
    ],
)
def test_wrong_queries_are_refused(searcher, catalogue, monkeypatch, image, text, says):
    monkeypatch.chdir(catalogue)
    with pytest.raises(UsageError, match=says):
        searcher.compose(image, text)


def test_normalised_and_broken_features_are_refused(searcher, catalogue):
    """The projection needs features that are not normalised; others would give wrong queries."""
    with pytest.raises(UsageError, match=r"a normalised feature, .* use encode_images\(…, normalize=False\)"):
        searcher.compose(searcher.encode_images(catalogue / "1.png").half(), "is red")
    with pytest.raises(RTDError, match="a feature is not finite"):
        searcher.compose(np.full(searcher.tower.features, np.nan), "is red")
    with pytest.raises(UsageError, match="already a feature"):
        searcher.encode_images(np.ones(searcher.tower.features))


def test_missing_images_and_galleries_are_named(run, searcher, tmp_path):
    with pytest.raises(RTDError, match=r"nowhere\.png"):
        searcher.compose(tmp_path / "nowhere.png", "is red")
    with pytest.raises(UsageError, match=r"pass images=FOLDER or index=PATH to rtd_plugin\.load"):
        rtd_plugin.load(run).search("1.png", "is red")
    with pytest.raises(UsageError, match="k: 0 is not positive"):
        searcher.search("1.png", "is red", k=0)
    with pytest.raises(RTDError, match="no image in this folder"):
        rtd_plugin.load(run, images=tmp_path)


def test_without_a_run_the_pretrained_encoder_composes(searcher, catalogue):
    frozen = rtd_plugin.load(recipe="lincir-miniature")
    assert frozen.compose(catalogue / "1.png", "is red").equal(searcher.frozen.compose(catalogue / "1.png", "is red"))
