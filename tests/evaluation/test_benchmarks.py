"""The field's benchmarks: reading their files, and messages about wrong files."""

import json
from collections import Counter

import pytest
from PIL import Image
from pyarrow import Table, parquet

from rtd_plugin.contract import plugins
from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Query, RankedNames
from rtd_plugin.evaluation.benchmarks.genecis import _crop_around

NAMES = ("cirr", "circo", "fashioniq", "genecis", "pinpoint", "folder")


@pytest.fixture
def make(tmp_path, write_dataset):
    """Writes a small benchmark and returns the object that reads it."""

    def make(name, *, written=None, **options):
        write_dataset(name, tmp_path / name, **(written or {}))
        return plugins.find_benchmark(name)(data=str(tmp_path / name), **options)

    return make


@pytest.mark.parametrize("name", NAMES)
def test_each_image_is_read_and_has_a_stamp(make, name):
    """Of every gallery and query, each with a stamp that changes with its file."""
    benchmark = make(name)
    gallery, queries = benchmark.gallery(), benchmark.queries()
    assert len(set(gallery)) == len(gallery)
    used = {each for query in queries for each in (query.reference, *query.targets, *query.candidates, *query.subset)}
    for image in used | set(gallery):
        assert benchmark.image(image).width > 2
    for query in queries:
        assert set(query.targets) <= set(query.candidates or gallery)
    stamps = {image: benchmark.stamp(image) for image in gallery}
    assert len(set(stamps.values())) == len(gallery)
    path = benchmark.path(gallery[0])
    path.write_bytes(path.read_bytes() + b" ")
    assert next(image for image in gallery if benchmark.stamp(image) != stamps[image]) == gallery[0]


def test_cirr(make):
    benchmark = make("cirr")
    query = benchmark.queries()[3]
    assert (query.reference, query.conditions) == ("dev-1-1-img0", ("has 5 red dogs",))
    assert query.targets == ("dev-1-2-img0",)
    assert query.subset == tuple(f"dev-1-{number}-img0" for number in (0, 2, 3, 4, 5))
    assert len(benchmark.queries()) == 6
    assert len(benchmark.gallery()) == 18
    assert benchmark.excludes_reference
    assert benchmark.remarks() == [
        "cirr val has 6 queries and 18 images here, but 4181 queries and 2297 images as published: "
        "results are not comparable with published ones",
    ]
    test = make("cirr", split="test1")
    assert [query.targets for query in test.queries()] == [()] * 6
    assert [query.id for query in test.queries()] == ["10", "11", "12", "13", "14", "15"]
    assert test.gallery()[0] == "test1-0-0-img0"


def test_cirr_in_the_layout_of_its_repository(make, tmp_path):
    """The annotations are in the folder itself, without `cirr/`."""
    benchmark = make("cirr")
    before = benchmark.queries()
    for folder in ("captions", "image_splits"):
        (tmp_path / "cirr/cirr" / folder).rename(tmp_path / "cirr" / folder)
    (tmp_path / "cirr/cirr").rmdir()
    assert plugins.find_benchmark("cirr")(data=str(tmp_path / "cirr")).queries() == before


def test_circo(make):
    benchmark = make("circo")
    query = benchmark.queries()[1]
    assert (query.reference, query.conditions) == ("101", ("shows 3 boats",))
    assert query.targets == ("111", "118")
    assert query.groups == ("cardinality", "negation")
    assert not benchmark.excludes_reference
    assert benchmark.path("100").name == "000000000100.jpg"
    assert "but 220 queries and 123403 images as published" in benchmark.remarks()[0]
    test = make("circo", split="test")
    assert {query.targets for query in test.queries()} == {query.groups for query in test.queries()} == {()}


def test_pinpoint(make, tmp_path):
    """The query of two images is left out; a category is a group, and the reference stays in the ranking."""
    benchmark = make("pinpoint")
    queries = benchmark.queries()
    assert [query.id for query in queries] == [f"query_{index:05d}" for index in range(5)]
    assert queries[3] == Query(
        reference=f"{1:032x}",
        conditions=("is red",),
        targets=(f"{3:032x}", f"{5:032x}"),
        groups=("Context Fit",),
        id="query_00003",
        request=f"{1:032x}",
        wrong=(f"{1:032x}", f"{7:032x}", f"{9:032x}"),
    )
    assert not benchmark.excludes_reference
    assert benchmark.remarks() == [
        "pinpoint: 1 query of two images left out",
        "pinpoint of one image has 5 queries and 12 images here, but 6629 queries and 109600 images as published: "
        "results are not comparable with published ones",
    ]
    (tmp_path / "pinpoint/images").rename(tmp_path / "elsewhere")
    elsewhere = plugins.find_benchmark("pinpoint")(data=str(tmp_path / "pinpoint"), images=str(tmp_path / "elsewhere"))
    assert elsewhere.image(queries[0].reference).width > 2


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda file: file.unlink(), "pinpoint_licensed.parquet is missing; the files are from https"),
        (lambda file: file.write_bytes(b"PAR1"), "pinpoint_licensed.parquet: not a Parquet file"),
        (
            lambda file: parquet.write_table(Table.from_pylist([{"query_id": "1"}]), file),
            "not the queries of pinpoint: 0.query_image_signature: is missing",
        ),
    ],
)
def test_broken_files_of_pinpoint_are_refused(make, tmp_path, write, says):
    benchmark = make("pinpoint")
    write(tmp_path / "pinpoint/pinpoint_licensed.parquet")
    with pytest.raises(RTDError, match=says):
        benchmark.queries()


@pytest.mark.parametrize("written", [{}, {"captions": "json", "suffix": ".png"}])
def test_fashioniq(make, written):
    benchmark = make("fashioniq", written=written)
    queries = benchmark.queries()
    assert Counter(query.groups for query in queries) == {("dress",): 6, ("shirt",): 6, ("toptee",): 6}
    query = queries[7]
    assert (query.reference, query.targets) == ("B101", ("B110",))
    assert query.conditions == ("is red.", "has 1 dots, ")
    assert query.candidates == (*(f"B{100 + number:03d}" for number in range(30)), "B000")
    assert len(benchmark.gallery()) == 90  # the image of two categories once
    assert benchmark.averages_groups
    assert len(benchmark.remarks()) == 3


def test_genecis(make):
    benchmark = make("genecis")
    queries = benchmark.queries()
    assert Counter(query.groups for query in queries).keys() == {
        ("focus_attribute",),
        ("change_attribute",),
        ("focus_object",),
        ("change_object",),
    }
    query = queries[-1]
    assert (query.reference, query.conditions) == ("000000000340", ("colour 2",))
    assert query.targets == query.candidates[:1] == ("000000000341",)
    assert len(query.candidates) == 6
    assert benchmark.path(queries[0].targets[0]).name == "2400001.jpg"
    objects = make("genecis", tasks=["focus_object", "change_object"])
    assert len(objects.queries()) == 6
    assert [remark.partition(" has")[0] for remark in objects.remarks()] == [
        "genecis focus_object",
        "genecis change_object",
    ]


def test_genecis_from_other_folders(make, tmp_path):
    benchmark = make("genecis")
    name = benchmark.queries()[0].targets[0]
    image = benchmark.image(name)
    (tmp_path / "genecis/VG_100K").rename(tmp_path / "pictures")
    moved = plugins.find_benchmark("genecis")(data=str(tmp_path / "genecis"), visual_genome=str(tmp_path / "pictures"))
    assert moved.image(name).tobytes() == image.tobytes()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_crop_equals_one_by_hand(mode):
    """A box of 10 × 20 at (30, 10): 7 more on its left and 14 above, of which the image has 10; 17 × 34 in all."""
    image = Image.new("RGB", (100, 60), "white")
    image.paste("red", (23, 0, 40, 34))
    crop = _crop_around(image.convert(mode), (30, 10, 10, 20))
    assert crop.size == (34, 34)
    background, red = (0, 76) if mode == "L" else ((0, 0, 0), (255, 0, 0))
    colors = {crop.getpixel((x, y)) for x in range(8, 25) for y in range(34)}
    assert colors == {red}
    assert {crop.getpixel((x, y)) for x in (0, 7, 25, 33) for y in range(34)} == {background}


def test_a_crop_at_the_edge():
    """The crop ends at the edge of the image."""
    crop = _crop_around(Image.new("RGB", (50, 50), "white"), (0, 20, 40, 10))
    assert crop.size == (50, 50)
    rows = [y for y in range(50) if crop.getpixel((25, y)) == (255, 255, 255)]
    assert len(rows) == 17  # from 13 to 30
    assert {crop.getpixel((x, rows[0])) for x in range(50)} == {(255, 255, 255)}


def test_folder(make):
    benchmark = make("folder")
    one, two = benchmark.queries()
    assert (one.reference, one.conditions, one.targets, one.groups) == ("0.png", ("is red",), ("1.png",), ("colour",))
    assert (two.conditions, two.targets, two.groups) == (("big, and blue",), ("3.png", "more/1.jpg"), ())
    assert benchmark.gallery() == [*(f"{n}.png" for n in range(8)), *(f"more/{n}.jpg" for n in range(4))]


def test_folder_with_json_lines(make, tmp_path):
    benchmark = make("folder")
    expected = benchmark.queries()
    lines = [
        {"reference": "0.png", "condition": "is red", "target": "1.png", "group": ["colour"]},
        {"reference": "2.png", "condition": ["big, and blue"], "target": ["3.png", "more/1.jpg"]},
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n\n".join(map(json.dumps, lines)))
    assert plugins.find_benchmark("folder")(data=str(tmp_path / "folder"), queries_file=str(file)).queries() == expected


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("queries.csv", "reference,condition\n0.png,is red\n", "queries.csv: no column target; the columns"),
        ("queries.csv", "reference,condition,target\n0.png,,1.png\n", "line 2: condition: is missing"),
        ("queries.csv", "reference,condition,target\n0.png,a,1.png,x\n", "line 2: more cells than the header has"),
        ("queries.csv", "reference,condition,target\n0.png,a,9.png\n", "line 2: no image 9.png in"),
        ("queries.csv", "reference;condition\n0.png;a\n", "are 'reference;condition'"),
        ("queries.jsonl", '{"reference": "0.png"\n', "queries.jsonl, line 1: invalid JSON"),
        ("queries.jsonl", "[1]", "line 1: expected a mapping"),
        (
            "queries.jsonl",
            '{"reference": "0.png", "condition": ["a", "b", "c"], "target": "1.png"}',
            "line 1: condition",
        ),
        ("queries.csv", "reference,condition,target\n0.png,a,;\n", "line 2: target"),
    ],
)
def test_wrong_queries_are_refused(make, tmp_path, name, content, says):
    benchmark = make("folder")
    (tmp_path / "folder/queries.csv").unlink()
    (tmp_path / "folder" / name).write_text(content)
    with pytest.raises(RTDError) as error:
        benchmark.queries()
    assert says in str(error.value)


def test_a_folder_without_queries_or_images(make, tmp_path):
    benchmark = make("folder")
    (tmp_path / "folder/queries.jsonl").write_text("")
    with pytest.raises(RTDError, match=r"expected queries.csv or queries.jsonl, found both"):
        benchmark.queries()
    (tmp_path / "empty").mkdir()
    for folder, says in (("empty", "no image in this folder"), ("nowhere", "no such folder of images")):
        with pytest.raises(RTDError, match=says):
            plugins.find_benchmark("folder")(data=str(tmp_path / folder)).gallery()


@pytest.mark.parametrize(
    ("name", "file", "says"),
    [
        ("cirr", "cirr/captions/cap.rc2.val.json", r"is missing \(val has 4181 queries, 2297 images\); the files are"),
        ("cirr", "cirr/image_splits/split.rc2.val.json", r"is missing \(val has 4181 queries, 2297 images\)"),
        ("circo", "annotations/val.json", r"is missing \(val has 220 queries, 123403 images\)"),
        ("circo", "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json", "from https://github.com/miccunifi"),
        ("fashioniq", "captions/cap.shirt.val.json", r"is missing \(shirt has 2038 queries, 6346 images\)"),
        ("fashioniq", "image_splits/split.dress.val.json", r"is missing \(dress has 2017 queries, 3817 images\)"),
        ("genecis", "focus_attribute.json", r"focus_attribute.json is missing; the files are from https://github.com"),
        ("genecis", "change_object.json", r"is missing \(change_object has 1960 queries, 15 images\)"),
    ],
)
def test_missing_files_are_named_with_their_source(make, tmp_path, name, file, says):
    make(name)
    (tmp_path / name / file).unlink()
    with pytest.raises(RTDError, match=says):
        read(plugins.find_benchmark(name)(data=str(tmp_path / name)))


def read(benchmark):
    return benchmark.queries(), benchmark.gallery()


ANNOTATIONS = {
    "cirr": "cirr/captions/cap.rc2.val.json",
    "circo": "annotations/val.json",
    "fashioniq": "captions/cap.dress.val.json",
    "genecis": "focus_object.json",
}


@pytest.mark.parametrize("other", ANNOTATIONS)
@pytest.mark.parametrize("name", ANNOTATIONS)
def test_the_annotations_of_another_dataset_are_refused(make, tmp_path, write_dataset, name, other):
    make(name)
    write_dataset(other, tmp_path / "other")
    file = tmp_path / name / ANNOTATIONS[name]
    file.write_bytes((tmp_path / "other" / ANNOTATIONS[other]).read_bytes())
    benchmark = plugins.find_benchmark(name)(data=str(tmp_path / name))
    if name == other:
        read(benchmark)
        return
    with pytest.raises(RTDError, match=rf"{file.name}: not a file of {name} \w+: 0\.\w+: (is missing|input|expected)"):
        read(benchmark)


@pytest.mark.parametrize("name", ["cirr", "circo"])
def test_the_annotations_of_a_split_without_targets_are_refused(make, tmp_path, name):
    make(name)
    file = tmp_path / name / ANNOTATIONS[name]
    file.write_bytes(file.with_name(file.name.replace("val", "test1" if name == "cirr" else "test")).read_bytes())
    with pytest.raises(RTDError, match=rf"not the (captions|annotations) of {name} val"):
        read(plugins.find_benchmark(name)(data=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("content", "says"), [(b"[{", "invalid JSON"), (b"{}", "input should be a valid array, found")]
)
def test_broken_files_are_refused(make, tmp_path, content, says):
    make("cirr")
    (tmp_path / "cirr" / ANNOTATIONS["cirr"]).write_bytes(content)
    with pytest.raises(RTDError, match=f"cap.rc2.val.json: not a file of cirr val: {says}"):
        read(plugins.find_benchmark("cirr")(data=str(tmp_path / "cirr")))


def make_rankings(benchmark, length=50, subset=3):
    """Rankings that a server accepts, of images in the gallery's order."""
    return [
        RankedNames(
            query,
            [name for name in benchmark.gallery() if name != query.reference][:length],
            query.subset[:subset],
        )
        for query in benchmark.queries()
    ]


@pytest.fixture
def cirr(make, monkeypatch):
    """A split whose gallery is large enough for a submission."""
    benchmark = make("cirr", split="test1")
    monkeypatch.setattr("rtd_plugin.evaluation.benchmarks.cirr.RECALL", 10)
    return benchmark


def test_submission_of_cirr(cirr):
    files = cirr.submissions(make_rankings(cirr))
    assert list(files) == ["recall.json", "recall_subset.json"]
    recall, subset = files.values()
    assert (recall["version"], recall["metric"]) == ("rc2", "recall")
    assert (subset["version"], subset["metric"]) == ("rc2", "recall_subset")
    assert list(recall) == ["version", "metric", *map(str, range(10, 16))]
    assert recall["11"] == ["test1-0-0-img0", *cirr.gallery()[2:11]]
    assert list(subset["11"]) == ["test1-0-0-img0", "test1-0-2-img0", "test1-0-3-img0"]


def test_submission_of_circo(make):
    benchmark = make("circo", split="test")
    (content,) = benchmark.submissions(make_rankings(benchmark)).values()
    assert list(content) == ["0", "1", "2", "3", "4"]
    assert content["1"] == [100, *range(102, 151)]


def spoilt(rankings, **changes):
    first, *rest = rankings
    values = {"query": first.query, "names": first.names, "subset": first.subset} | changes
    return [RankedNames(**values), *rest]


def test_submissions_that_a_server_refuses(cirr, make):
    good = make_rankings(cirr)
    names = list(good[0].names)
    for bad, says in (
        (spoilt(good, names=names[:9]), "query 10 has 9 images and needs 10"),
        (spoilt(good, subset=()), "query 10 has 0 images and needs 3"),
        (spoilt(good, query=good[1].query), "6 queries have 5 different ids"),
    ):
        with pytest.raises(RTDError, match=says) as error:
            cirr.submissions(bad)
        assert "nothing was written" in str(error.value)
    few = make("circo", split="test", written={"images": 40})
    with pytest.raises(RTDError, match="CIRCO would refuse the submission: query 0 has 39 images and needs 50"):
        few.submissions(make_rankings(few))


def test_images_of_cirr_in_other_places(make, tmp_path):
    """In `img_raw`, without the folders of their paths as NLVR2's archives have them, or in a folder that is named."""
    name = "dev-1-2-img0"
    pixels = make("cirr").image(name).tobytes()
    data = tmp_path / "cirr"
    (data / "img_raw").mkdir()
    (data / "dev").rename(data / "img_raw/dev")
    cirr = plugins.find_benchmark("cirr")
    assert cirr(data=str(data)).image(name).tobytes() == pixels
    (data / "img_raw/dev").rename(tmp_path / "flat")
    assert cirr(data=str(data), images=str(tmp_path / "flat")).image(name).tobytes() == pixels
    (data / "img_raw").rmdir()
    (tmp_path / "flat").rename(data / "img_raw")
    assert cirr(data=str(data)).image(name).tobytes() == pixels


def test_images_of_circo_in_other_places(make, tmp_path):
    pixels = make("circo").image("101").tobytes()
    coco = tmp_path / "coco"
    (tmp_path / "circo/COCO2017_unlabeled").rename(coco)
    circo = plugins.find_benchmark("circo")
    assert circo(data=str(tmp_path / "circo"), coco=str(coco)).image("101").tobytes() == pixels
    for image in (coco / "unlabeled2017").iterdir():
        image.rename(coco / image.name)
    assert circo(data=str(tmp_path / "circo"), coco=str(coco)).image("101").tobytes() == pixels


def test_messages_list_the_files_that_exist(make, tmp_path):
    make("cirr")
    (tmp_path / "cirr/dev").rename(tmp_path / "cirr/pictures")
    (tmp_path / "cirr/cirr/captions/cap.rc2.val.json").unlink()
    cirr = plugins.find_benchmark("cirr")
    there = f"{tmp_path}/cirr has cirr/, pictures/, test1/"
    with pytest.raises(RTDError, match=rf"the files are from https.*; {there}$"):
        cirr(data=str(tmp_path / "cirr")).queries()
    assert there in cirr(data=str(tmp_path / "cirr"), images=str(tmp_path / "cirr/pictures")).source()
    assert cirr(data=str(tmp_path / "no")).source().endswith("no has nothing (No such file or directory)")


def test_circo_with_the_shared_concept(make, tmp_path):
    (query, *_) = make("circo", shared_concept=True).queries()
    assert query.conditions == ("shows a boat that shows 2 boats",)
    file = tmp_path / "circo/annotations/val.json"
    file.write_text(file.read_text().replace('"shared_concept": "a boat", ', "", 1))
    with pytest.raises(RTDError, match="a query has no shared_concept"):
        plugins.find_benchmark("circo")(data=str(tmp_path / "circo"), shared_concept=True).queries()


def test_one_category_of_fashioniq(make, tmp_path):
    """The files of the others need not exist."""
    make("fashioniq")
    for file in (tmp_path / "fashioniq").rglob("*.shirt.*"):
        file.unlink()
    dress = plugins.find_benchmark("fashioniq")(data=str(tmp_path / "fashioniq"), categories=["dress"])
    assert {query.groups for query in dress.queries()} == {("dress",)}
    assert len(dress.gallery()) == 30
    assert [remark.partition(" has")[0] for remark in dress.remarks()] == ["fashioniq dress"]


def test_fashioniq_with_the_images_of_its_queries_as_the_gallery(make):
    benchmark = make("fashioniq", protocol="val")
    query = benchmark.queries()[7]
    assert query.candidates == (*(f"B{100 + number:03d}" for number in (*range(6), *range(9, 15))),)
    assert "the gallery of each category is only the images of its queries (dress 12," in benchmark.remarks()[0]


def test_images_of_fashioniq_with_any_suffix(make, tmp_path):
    make("fashioniq")
    images = tmp_path / "fashioniq/images"
    for name, suffix in (("B001", ".png"), ("B002", ".JPG"), ("B003", ".jpeg")):
        (images / f"{name}.jpg").rename(images / f"{name}{suffix}")
    (images / "B004.txt").touch()
    benchmark = plugins.find_benchmark("fashioniq")(data=str(tmp_path / "fashioniq"))
    assert [benchmark.path(f"B00{index}").suffix for index in range(5)] == [".jpg", ".png", ".JPG", ".jpeg", ".jpg"]
    assert all(benchmark.image(name).width > 2 for name in benchmark.gallery()[:5])


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ("[3, 4, 0, 9.5]", "instance_bbox.2: input should be greater than 0, found 0"),
        ("[3, 4, 12, -1]", "instance_bbox.3: input should be greater than 0"),
        ("[1e999, 4, 12, 1]", "instance_bbox.0: input should be a finite number"),
        ("[3, 4, 12]", "instance_bbox.3: is missing"),
    ],
)
def test_boxes_of_no_size_are_refused(make, tmp_path, box, says):
    make("genecis")
    file = tmp_path / "genecis/focus_attribute.json"
    file.write_text(file.read_text().replace("[3, 4, 12, 9.5]", box, 1))
    with pytest.raises(RTDError, match=rf"focus_attribute.json: not a file of genecis .*{says}"):
        plugins.find_benchmark("genecis")(data=str(tmp_path / "genecis")).queries()


def test_a_box_outside_its_picture_is_named():
    with pytest.raises(RTDError, match=r"a box \(90, 0, 4, 4\) .* outside an image of 40 x 30"):
        _crop_around(Image.new("RGB", (40, 30)), (90, 0, 4, 4))


@pytest.mark.parametrize(
    ("name", "file", "old"),
    [
        ("circo", "annotations/val.json", '"reference_img_id": 100'),
        ("circo", "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json", '"id": 100'),
        ("cirr", "cirr/captions/cap.rc2.val.json", '"pairid": 10'),
        ("genecis", "focus_object.json", '"val_image_id": 200'),
        ("genecis", "focus_attribute.json", '"image_id": 2400000'),
    ],
)
@pytest.mark.parametrize("number", ["9" * 5000, "9" * 30, "-1"])
def test_huge_and_negative_integers_are_refused(make, tmp_path, name, file, old, number):
    make(name)
    path = tmp_path / name / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, f"{old.partition(':')[0]}: {number}", 1))
    with pytest.raises(RTDError, match=rf"{path.name}: not a file of {name}"):
        read(plugins.find_benchmark(name)(data=str(tmp_path / name)))
