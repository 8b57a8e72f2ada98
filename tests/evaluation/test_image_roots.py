"""Images outside a benchmark's folder, which annotations or links name, are refused unless their folder is named."""

import json
import os
import shutil

import pytest
from PIL import Image

from rtd_plugin.contract import plugins
from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmarks.files import find_file
from rtd_plugin.search.image_folder import ImageFolder

ROOTS = {
    "cirr": "dev",
    "circo": "COCO2017_unlabeled/unlabeled2017",
    "fashioniq": "images",
    "genecis": "val2017",
    "folder": "more",
    "search": "more",
}
FIRST = {"cirr": "dev-0-0-img0", "circo": "100", "fashioniq": "B000", "genecis": "000000000201", "folder": "more/0.jpg"}
FIRST["search"] = FIRST["folder"]


def open_benchmark(name, folder, **options):
    if name == "search":
        return ImageFolder(data=str(folder), **options)
    return plugins.find_benchmark(name)(data=str(folder), **options)


@pytest.fixture
def folder(tmp_path, write_dataset):
    """A function that writes a benchmark beside a foreign `private/secret.jpg`, and returns its folder."""
    (tmp_path / "private").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "private/secret.jpg")

    def write(name):
        write_dataset("folder" if name == "search" else name, tmp_path / name)
        return tmp_path / name

    return write


def rename_first(name, folder, path):
    """Have the annotations name `path`, relative to their folder of images, as the first image; return its name."""
    file = {
        "cirr": "cirr/image_splits/split.rc2.val.json",
        "circo": "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json",
        "fashioniq": "image_splits/split.dress.val.json",
    }[name]
    content = json.loads((folder / file).read_text())
    if name == "cirr":
        content[FIRST[name]] = path
    elif name == "circo":
        content["images"][0]["file_name"] = path
    else:
        content[0] = path.removesuffix(".jpg")
    (folder / file).write_text(json.dumps(content))
    return content[0] if name == "fashioniq" else FIRST[name]


def check_refused(benchmark, image, secret):
    for read in (benchmark.image, benchmark.stamp):
        with pytest.raises(RTDError) as error:
            read(image)
        assert f"leads out of {benchmark.data}, to {secret}: if you trust it, name its folder" in str(error.value)
        option = "--image-root {0}" if benchmark.name == "search" else "--set image_roots=[{0}], or image_roots: [{0}]"
        assert option.format(secret.parent) in str(error.value)


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("name", ["cirr", "circo", "fashioniq"])
def test_annotations_that_lead_out_are_refused(folder, tmp_path, name, absolute):
    data, secret = folder(name), tmp_path / "private/secret.jpg"
    start = data if name == "cirr" else data / ROOTS[name]
    image = rename_first(name, data, str(secret) if absolute else os.path.relpath(secret, start))
    check_refused(open_benchmark(name, data), image, secret)
    named = open_benchmark(name, data, image_roots=[str(secret.parent)])
    assert named.image(image).getpixel((20, 20))[0] > 200
    assert named.stamp(image).startswith(f"{secret} ")


@pytest.mark.parametrize("name", ROOTS)
def test_a_link_that_leads_out_is_refused(folder, tmp_path, name):
    data, secret = folder(name), tmp_path / "private/secret.jpg"
    path = open_benchmark(name, data).path(FIRST[name])
    path.unlink()
    path.symlink_to(secret)
    assert FIRST[name] in open_benchmark(name, data).gallery()
    check_refused(open_benchmark(name, data), FIRST[name], secret)
    assert open_benchmark(name, data, image_roots=[str(secret.parent)]).image(FIRST[name]).size == (40, 40)


@pytest.mark.parametrize("name", sorted(ROOTS.keys() - {"folder", "search"}))
def test_a_linked_folder_of_images_is_refused_unless_named(folder, tmp_path, name):
    """Several benchmarks may share one copy; naming a folder above it is enough."""
    data, shared = folder(name), tmp_path / "shared/pictures"
    shared.parent.mkdir()
    shutil.move(data / ROOTS[name], shared)
    (data / ROOTS[name]).symlink_to(shared)
    file = open_benchmark(name, data).path(FIRST[name])
    check_refused(open_benchmark(name, data), FIRST[name], shared / file.name)
    for root in (shared, shared.parent, data / ROOTS[name]):
        assert open_benchmark(name, data, image_roots=[str(root)]).image(FIRST[name]).width > 2


@pytest.mark.parametrize("name", ROOTS)
def test_links_inside_the_folder_are_followed(folder, tmp_path, name):
    """Also where the benchmark's folder is given as a link."""
    data = folder(name)
    path = open_benchmark(name, data).path(FIRST[name])
    path.rename(data / "moved.jpg")
    path.symlink_to(data / "moved.jpg")
    (tmp_path / "link").symlink_to(data)
    assert open_benchmark(name, tmp_path / "link").image(FIRST[name]).width > 2
    assert FIRST[name] in open_benchmark(name, tmp_path / "link").gallery()


def test_a_folder_whose_name_begins_alike_is_outside(folder, tmp_path):
    data = folder("cirr")
    shutil.copytree(tmp_path / "private", tmp_path / "cirr-private")
    image = rename_first("cirr", data, "../cirr-private/secret.jpg")
    check_refused(open_benchmark("cirr", data), image, tmp_path / "cirr-private/secret.jpg")


def test_genecis_trusts_the_image_folders_it_is_given(folder, tmp_path):
    data = folder("genecis")
    shutil.move(data / "val2017", tmp_path / "coco")
    (tmp_path / "link").symlink_to(tmp_path / "coco")
    assert open_benchmark("genecis", data, coco=str(tmp_path / "link")).image(FIRST["genecis"]).width > 2


def test_a_searched_folder_has_no_links_that_lead_out(folder, tmp_path):
    data, secret = folder("search"), tmp_path / "private/secret.jpg"
    (data / "link.jpg").symlink_to(secret)
    check_refused(ImageFolder(data=str(data)), "link.jpg", secret)


def test_a_name_that_no_file_can_have_is_refused(folder):
    data = folder("cirr")
    image = rename_first("cirr", data, "dev/\0.png")
    with pytest.raises(RTDError, match=r"not a name of a file \(.*\): correct the annotations"):
        open_benchmark("cirr", data).stamp(image)


def test_a_dangling_link_is_missing_and_not_refused(folder, tmp_path):
    data = folder("folder")
    (data / "gone.jpg").symlink_to(tmp_path / "elsewhere/gone.jpg")
    with pytest.raises(FileNotFoundError):
        open_benchmark("folder", data).stamp("gone.jpg")


def test_a_name_that_is_too_long_is_an_error(tmp_path):
    """No OSError where the paths of CIRR's images are tried."""
    assert find_file([tmp_path / ("x" * 300), tmp_path / "b"]) == tmp_path / ("x" * 300)


def test_a_link_to_itself_is_an_error(folder):
    data = folder("cirr")
    path = open_benchmark("cirr", data).path(FIRST["cirr"])
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        open_benchmark("cirr", data).stamp(FIRST["cirr"])


def test_queries_of_a_folder_may_name_only_images_of_its_gallery(folder, tmp_path):
    data = folder("folder")
    for name in ("../private/secret.jpg", str(tmp_path / "private/secret.jpg")):
        (data / "queries.csv").write_text(f"reference,condition,target\n{name},is red,1.png\n")
        with pytest.raises(RTDError, match="line 2: no image"):
            open_benchmark("folder", data).queries()
