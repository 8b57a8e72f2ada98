"""`rtd-plugin index` and searching an index: built once, updated, filtered, in two stores."""

import json
import shutil
import sys

import pytest
from click.testing import CliRunner
from PIL import Image

import rtd_plugin
from rtd_plugin.cli.main import main
from rtd_plugin.contract import GalleryStore, hookimpl, plugins
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.evaluation.image_features import ImageFeatures
from rtd_plugin.search import faiss_store, indexing
from rtd_plugin.workflows.index import build_index, measure_recall

PACKAGES = {"lance": "lancedb", "faiss": "faiss"}
COLUMNS = "image,price,category\n0.png,10,shoes\n1.png,60,shoes\nmore/0.jpg,20,hats\nnowhere.png,1,hats\n"


@pytest.fixture
def images(catalogue, tmp_path):
    """A folder of twelve images that a test may change."""
    return shutil.copytree(catalogue, tmp_path / "images")


@pytest.fixture(params=PACKAGES)
def output(request, tmp_path):
    """Where the index goes, for each store."""
    pytest.importorskip(PACKAGES[request.param])
    return tmp_path / f"gallery.{request.param}"


@pytest.fixture
def encoded(monkeypatch):
    """The names of the images that are encoded."""
    names = []
    encode = ImageFeatures.encode_readable

    def note(self, benchmark, listed, *args):
        names.extend(listed)
        return encode(self, benchmark, listed, *args)

    monkeypatch.setattr(ImageFeatures, "encode_readable", note)
    return names


def search_all(run, output, images, **options):
    searcher = rtd_plugin.load(run, index=output, device="cpu")
    return searcher.search(images / "2.png", "is red", k=50, **options)


def test_an_index_gives_the_results_of_its_folder(run, images, output):
    build_index(images, output, weights=[run])
    found = search_all(run, output, images)
    expected = rtd_plugin.load(run, images=images, device="cpu").search(images / "2.png", "is red", k=50)
    assert [match.image for match in found] == [match.image for match in expected]
    assert [match.score for match in found] == pytest.approx([match.score for match in expected], abs=1e-5)
    searcher = rtd_plugin.load(run, index=output)
    assert [len(row) for row in searcher.search(images / "2.png", ["is red", "is big"], k=3)] == [3, 3]
    assert len(searcher.gallery) == 12


def test_an_index_is_updated(run, images, output, encoded):
    """Only new and changed images are encoded; missing ones are removed."""
    first = build_index(images, output, weights=[run])
    assert (first["images"], first["added"], first["removed"], len(encoded)) == (12, 12, 0, 12)
    encoded.clear()
    assert [build_index(images, output, weights=[run])[key] for key in ("added", "removed")] == [0, 0]
    assert encoded == []
    (images / "0.png").unlink()
    Image.new("RGB", (40, 30), "red").save(images / "it's new.png")
    Image.new("RGB", (50, 40), "blue").save(images / "1.png")
    change = build_index(images, output, weights=[run])
    assert (change["images"], change["added"], change["removed"]) == (12, 2, 2)
    assert sorted(encoded) == ["1.png", "it's new.png"]
    expected = rtd_plugin.load(run, images=images).search(images / "2.png", "is red", k=50)
    assert [match.image for match in search_all(run, output, images)] == [match.image for match in expected]


def test_a_stopped_build_continues(run, images, output, encoded, monkeypatch):
    monkeypatch.setattr(indexing, "ROWS", 5)
    store = type(plugins.find_gallery_store(str(output)))
    add, blocks = store.add, []

    def stop(self, rows):
        if len(blocks) == 1:
            raise KeyboardInterrupt
        blocks.append(len(rows))
        add(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(store, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            build_index(images, output, weights=[run])
    encoded.clear()
    assert build_index(images, output, weights=[run])["images"] == 12
    assert len(encoded) == 7
    assert len(search_all(run, output, images)) == 11


def test_an_index_whose_creation_was_stopped_is_made_again(run, images, output, monkeypatch):
    if output.suffix == ".lance":
        (output / "images.lance/data").mkdir(parents=True)  # what a killed process leaves
    else:
        with monkeypatch.context() as patch:
            patch.setattr(faiss_store, "write_text", lambda *_: sys.exit())
            with pytest.raises(SystemExit):
                build_index(images, output, weights=[run])
    assert build_index(images, output, weights=[run])["images"] == 12
    assert len(search_all(run, output, images)) == 11


def test_a_broken_file_of_an_index_is_an_error(run, images, tmp_path):
    pytest.importorskip("faiss")
    output = tmp_path / "gallery.faiss"
    build_index(images, output, weights=[run])
    (output / "000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(RTDError, match=r"000001\.parquet: a broken file of an index: build it again"):
        search_all(run, output, images)


def test_unreadable_images_are_left_out_and_named(run, images, output, caplog):
    (images / "broken.png").write_bytes(b"no image")
    result = build_index(images, output, weights=[run])
    assert (result["images"], list(result["unreadable"])) == (12, ["broken.png"])
    assert "1 unreadable image left out: broken.png" in caplog.text


def test_columns_filter_and_come_with_matches(run, images, tmp_path, encoded):
    """They change without encoding an image again."""
    pytest.importorskip("lancedb")
    output, prices = tmp_path / "gallery.lance", tmp_path / "prices.csv"
    prices.write_text(COLUMNS)
    build_index(images, output, weights=[run], columns=prices)
    matches = search_all(run, output, images, where="price < 50")
    assert {match.image: dict(match.columns) for match in matches} == {
        "0.png": {"price": 10, "category": "shoes"},
        "more/0.jpg": {"price": 20, "category": "hats"},
    }
    assert len(search_all(run, output, images)) == 11
    encoded.clear()
    prices.write_text(COLUMNS.replace("60,shoes", "40,boots"))
    change = build_index(images, output, weights=[run], columns=prices)
    assert (change["added"], change["removed"], encoded) == (1, 1, [])
    found = search_all(run, output, images, where="category = 'boots'")
    assert [(match.image, match.columns["price"]) for match in found] == [("1.png", 40)]
    with pytest.raises(UsageError, match=r"where: 'colour = 3' is not a condition on image, price, category in SQL"):
        search_all(run, output, images, where="colour = 3")
    with pytest.raises(UsageError, match=r"built with the columns .*: name another with --output"):
        build_index(images, output, weights=[run])


def test_an_approximate_index_reports_its_recall(run, images, tmp_path):
    pytest.importorskip("lancedb")
    result = build_index(images, tmp_path / "gallery.lance", weights=[run], approximate=True)
    assert result["recall_at_10"] == 100  # of so few images it reads all
    store = plugins.find_gallery_store(str(tmp_path / "gallery.lance"))
    assert store.is_approximate
    search = store.search

    def miss_the_best(query, k, where, exact):
        return search(query, k, where, exact) if exact else search(query, k + 1, where, exact)[1:]

    store.search = miss_the_best
    assert measure_recall(store) == 90


def test_an_index_of_another_tower_is_refused(run, images, output):
    build_index(images, output, weights=[run])
    for use in (
        lambda: rtd_plugin.load(run, index=output, preprocess="targetpad"),
        lambda: build_index(images, output, weights=[run], preprocess="targetpad"),
    ):
        with pytest.raises(UsageError, match="built with another image tower or preprocessing"):
            use()
    with pytest.raises(UsageError, match="built with the folder"):
        build_index(images / "more", output, weights=[run])


def test_the_commands(run, images, output):
    def call(*args):
        done = CliRunner().invoke(main, [*map(str, args), "--weights", str(run)])
        assert done.exit_code == 0, done.stderr
        return done.stdout

    assert call("index", images, "--output", output) == f"Wrote {output}: 12 images, 12 added, 0 removed.\n"
    result = json.loads(call("search", images / "2.png", "is red", "--index", output, "--json", "--top", 3))
    assert [row["name"] for row in result["results"]] == ["pre-trained", run.name]
    expected = [match.image for match in search_all(run, output, images)[:3]]
    assert [image["image"] for image in result["results"][1]["images"]] == expected
    assert result["gallery"] == 12


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["search", "a.png", "is red"], "nothing to search: pass --images or --index"),
        (["search", "a.png", "is red", "--images", ".", "--index", "a.lance"], "a folder and an index"),
        (["search", "a.png", "is red", "--index", "a.zip"], "a.zip: no plugin has an index with this ending"),
        (["search", "a.png", "is red", "--index", "a.faiss"], "a.faiss: no index here: build it with `rtd-plugin"),
        (["index", "nowhere", "--output", "a.faiss"], "nowhere: no such folder of images"),
    ],
)
def test_wrong_options_are_named_before_models_are_loaded(tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, args)
    assert done.exit_code in (1, 2)
    assert says in done.stderr


def test_hook_rtd_gallery_store():
    class Shop(GalleryStore):
        read_settings = create = read_rows = add = remove = search = finish = None

    class Plugin:
        @hookimpl
        def rtd_gallery_store(self, path):
            return Shop() if path.startswith("shop:") else None

    with plugins.use_plugins(Plugin()):
        assert isinstance(plugins.find_gallery_store("shop:shoes"), Shop)
        assert not isinstance(plugins.find_gallery_store("a.lance"), Shop)
    with pytest.raises(UsageError, match="shop:shoes: no plugin has an index with this ending"):
        plugins.find_gallery_store("shop:shoes")
