"""A user's folders of images, as they come: turned, damaged, linked, and with odd names and texts."""

import os

import pytest
from PIL import Image

from rtd_plugin.contract import plugins
from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Query
from rtd_plugin.search.image_folder import ImageFolder


@pytest.fixture
def folder(tmp_path, write_dataset):
    write_dataset("folder", tmp_path / "mine")
    return tmp_path / "mine"


def read(folder, content, name="queries.jsonl", **options):
    (folder / "queries.csv").unlink(missing_ok=True)
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    return plugins.find_benchmark("folder")(data=str(folder), **options).queries()


def make_search(folder, **options):
    return ImageFolder(data=str(folder), **options)


def turn(path, orientation):
    """Store an image so that a viewer turns it as the EXIF orientation says."""
    image = Image.new("RGB", (30, 20), "white")
    image.paste("red", (0, 0, 10, 10))  # a red corner at the top left
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, quality=100)


@pytest.mark.parametrize(
    ("orientation", "corner"), [(1, (3, 3)), (3, (27, 17)), (6, (17, 3)), (8, (3, 27)), (0, (3, 3))]
)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
def test_image_files_are_turned_as_their_exif_orientation_says(folder, orientation, corner, suffix):
    turn(folder / f"phone{suffix}", orientation)
    search = make_search(folder)
    assert search.remarks() == []
    red, green, _ = search.image(f"phone{suffix}").getpixel(corner)
    assert red > 200 > 100 > green
    said = [f"1 image turned as the EXIF orientation says: phone{suffix}"]
    assert search.remarks() == (said if orientation in (3, 6, 8) and suffix != ".tiff" else [])  # Pillow turns TIFF


def test_benchmarks_do_not_turn_pictures(tmp_path, write_dataset):
    """Like the hosts; and their features are not mistaken for those of turned images."""
    write_dataset("cirr", tmp_path / "cirr")
    turn(tmp_path / "cirr/dev/dev-0-0-img0.png", 6)
    cirr = plugins.find_benchmark("cirr")(data=str(tmp_path / "cirr"))
    search = make_search(tmp_path / "cirr")
    assert cirr.image("dev-0-0-img0").size == (30, 20)
    assert search.image("dev/dev-0-0-img0.png").size == (20, 30)
    assert cirr.stamp("dev-0-0-img0") != search.stamp("dev/dev-0-0-img0.png")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_data_does_not_break_a_picture(folder):
    Image.new("RGB", (30, 20)).save(folder / "odd.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert make_search(folder).image("odd.jpg").size == (30, 20)


def test_linked_subfolders_are_searched(folder, tmp_path):
    """Also links within the folder; loops end."""
    (tmp_path / "shared/deep").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(tmp_path / "shared/deep/a.jpg")
    (folder / "linked").symlink_to(tmp_path / "shared")
    (folder / "again").symlink_to(folder / "more")
    (folder / "more/up").symlink_to(folder)
    (folder / "more/self").symlink_to(folder / "more/self")
    names = make_search(folder, image_roots=[str(tmp_path / "shared")]).gallery()
    assert [name for name in names if "/" in name and not name.startswith("more")] == [
        *(f"again/{n}.jpg" for n in range(4)),
        "linked/deep/a.jpg",
    ]
    assert len(names) == 8 + 4 + 4 + 1


def test_linked_subfolders_that_lead_out_are_refused(folder, tmp_path):
    """Before anything in them is listed."""
    (tmp_path / "shared").mkdir()
    (folder / "linked").symlink_to(tmp_path / "shared")
    with pytest.raises(RTDError, match=rf"linked: leads out of .*shared: if you trust it, .* --image-root {tmp_path}"):
        make_search(folder).gallery()
    with pytest.raises(RTDError, match=r"--set image_roots=\[.*shared\]"):
        plugins.find_benchmark("folder")(data=str(folder)).gallery()


def test_folders_with_a_pictures_suffix_and_other_formats(folder):
    """A folder is not an image; images in formats that are not read are counted."""
    (folder / "shoes.jpg").mkdir()
    Image.new("RGB", (20, 20)).save(folder / "shoes.jpg/a.JPEG")
    for name in ("phone.heic", "b.AVIF", "c.avif", "features.h5", "notes.txt"):
        (folder / name).touch()
    search = make_search(folder)
    assert [name for name in search.gallery() if "shoes" in name] == ["shoes.jpg/a.JPEG"]
    assert search.remarks() == ["4 files in formats that are not read: .avif (2), .h5 (1), .heic (1)"]


def test_links_to_subfolders_that_are_gone_are_named(folder, tmp_path):
    """A link to a missing image is an unreadable image."""
    for name in ("more/archive", "2024", "shoe.jpg"):
        (folder / name).symlink_to(tmp_path / "unmounted" / name)
    search = make_search(folder)
    assert [name for name in search.gallery() if "archive" in name or "2024" in name] == []
    assert search.remarks() == ["2 links lead to nothing: 2024, more/archive"]


def test_lines_and_separators_within_cells_and_names(folder):
    """Only a line feed outside quotes ends a line; only a cell of CSV has several names."""
    Image.new("RGB", (20, 20)).save(folder / "a;b.png")
    for separator in "\u2028\u2029\x85\x0b\x0c\x1c":
        (query,) = read(folder, f"reference,condition,target\n0.png,is{separator}red,1.png\n", "queries.csv")
        assert query.conditions == (f"is{separator}red",)
        (folder / "queries.csv").unlink()
    (query,) = read(folder, 'reference,condition,target\n"a;b.png",is red,"a;b.png"\n', "queries.csv")
    assert (query.reference, query.targets) == ("a;b.png", ("a;b.png",))
    (folder / "queries.csv").unlink()
    (query,) = read(folder, '{"reference": "a;b.png", "condition": "is red; big", "target": "a;b.png", "group": "x;y"}')
    assert query == Query("a;b.png", ("is red; big",), ("a;b.png",), groups=("x;y",))


def test_a_target_that_is_named_twice_counts_once(folder):
    (query,) = read(folder, '{"reference": "0.png", "condition": "is red", "target": ["1.png", "1.png"]}')
    assert query.targets == ("1.png",)


def test_a_query_may_have_its_own_gallery_and_subset(folder):
    """A name that ends in a slash is a folder."""
    content = "reference,condition,target,gallery,subset\nmore/0.jpg,is red,more/1.jpg,more/;1.png,more/1.jpg;2.png\n"
    (query,) = read(folder, content, "queries.csv")
    assert query.candidates == (*(f"more/{n}.jpg" for n in range(4)), "1.png")
    assert query.subset == ("more/1.jpg", "2.png")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "queries.jsonl",
            '{"reference": "0.png", "condition": "is \\ud83d", "target": "1.png"}',
            "line 1: invalid JSON",
        ),
        (
            "queries.jsonl",
            '{"reference": "0.png", "condition": %s, "target": "1.png"}' % ("9" * 5000),
            "line 1: invalid JSON",
        ),
        ("queries.jsonl", '{"reference": "0.png", "condition": %s' % ("[" * 5000), "line 1: invalid JSON: recursion"),
        ("queries.jsonl", "\udcff", "cannot be read as text in UTF-8"),
        ("queries.csv", "reference;condition;target\n0.png;a;1.png\n", r"are 'reference;condition;target'"),
        ("queries.csv", "", "no column reference"),
        ("queries.csv", f"reference,condition,target\n0.png,{'x' * 2_000_000},1.png\n", "after line 1: not CSV"),
        ("queries.csv", "reference,condition,target,subset\n0.png,a,1.png,9/\n0.png,a,1.png,x.png\n", "no image x.png"),
    ],
)
def test_broken_queries_are_refused(folder, name, content, says):
    with pytest.raises(RTDError, match=says):
        read(folder, content, name)


def test_names_of_files_need_not_be_utf_8(folder):
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (20, 20)).save(folder / name)
    search = make_search(folder)
    assert name in search.gallery()
    assert search.image(name).size == (20, 20)
