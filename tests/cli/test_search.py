"""`rtd-plugin search`."""

import json

import pytest
from PIL import Image


@pytest.fixture
def search(rtd, files, write_dataset, tmp_path):
    write_dataset("folder", tmp_path / "gallery")
    (tmp_path / "gallery/more/notes.txt").touch()

    def search(*options, image="gallery/2.png", condition="is a kettle"):
        setup = ("--adapter", "lincir", "--model", files / "model.json", "--checkpoint", files / "clip.pt")
        named = (*setup, "--projection", files / "phi.pt", "--images", "gallery")
        return rtd("search", image, condition, *named, *options)

    return search


def read(done):
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_the_best_images_first(search):
    """All images of the folder and its subfolders but the reference."""
    result = read(search("--top", 50, "--json"))
    (row,) = result["results"]
    images = [each["image"] for each in row["images"]]
    assert sorted(images) == [*(f"{n}.png" for n in (0, 1, 3, 4, 5, 6, 7)), *(f"more/{n}.jpg" for n in range(4))]
    scores = [each["score"] for each in row["images"]]
    assert scores == sorted(scores, reverse=True)
    assert all(-1 <= score <= 1 for score in scores)
    assert (result["reference"], result["condition"], result["gallery"]) == ("gallery/2.png", "is a kettle", 12)
    other = read(search("--top", 3, "--json", condition="has more children"))
    assert [len(row["images"]) for row in other["results"]] == [3]
    assert other["results"][0]["images"][0]["score"] != scores[0]


def test_a_reference_from_elsewhere(search, tmp_path):
    """Then all images of the folder are ranked."""
    Image.open(tmp_path / "gallery/2.png").convert("L").save(tmp_path / "mine.bmp")
    (row,) = read(search("--top", 50, "--json", image="mine.bmp"))["results"]
    assert len(row["images"]) == 12


def test_before_and_after(search, finished_run, tmp_path):
    done = search("--weights", finished_run, "--top", 4, "--page", "found.html")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "composed, frozen" in lines[1]
    assert "composed, tuned" in lines[1]
    assert len([line for line in lines if line.startswith("│")]) == 4
    assert lines[-1] == "Wrote found.html."
    page = (tmp_path / "found.html").read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 9
    assert "“is a kettle”" in page
    assert page.count("src=") == 9


@pytest.mark.parametrize(
    ("options", "image", "says"),
    [
        ((), "no.png", "search: the image "),
        (("--images", "nowhere"), "gallery/2.png", "nowhere: no such folder of images"),
        (("--top", "0"), "gallery/2.png", "Invalid value for '--top'"),
    ],
)
def test_missing_files_and_wrong_options_are_refused(search, options, image, says):
    done = search(*options, image=image)
    assert done.exit_code in (1, 2)
    assert says in done.stderr


def test_unreadable_pictures_are_left_out_and_reported(search, tmp_path):
    (tmp_path / "gallery/0.png").write_bytes(b"")
    (tmp_path / "gallery/3.png").unlink()
    (tmp_path / "gallery/3.png").symlink_to("/nowhere/3.png")
    Image.new("RGB", (20, 30)).save(
        tmp_path / "gallery/phone.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    )
    done = search("--top", 50, "--page", "found.html", "--json")
    result = read(done)
    assert len(result["results"][0]["images"]) == 10
    assert sorted(result["unreadable"]) == ["0.png", "3.png"]
    said = "2 of 13 images cannot be read and are left out: 3.png, 0.png"
    turned = "1 image turned as the EXIF orientation says: phone.jpg"
    page = (tmp_path / "found.html").read_text()
    for remark in (said, turned):
        assert remark in done.stderr
        assert remark in page
    refused = search("--no-skip-unreadable")
    assert refused.exit_code == 1
    assert "search: the image 3.png cannot be read" in refused.stderr


def test_an_unreadable_reference_is_an_error(search, tmp_path):
    (tmp_path / "gallery/2.png").write_bytes(b"")
    done = search()
    assert done.exit_code == 1
    assert "2.png cannot be read" in done.stderr


def test_a_condition_that_is_not_text_is_refused_before_any_work(search, monkeypatch):
    monkeypatch.setattr("rtd_plugin.workflows.search.load_models", None)
    done = search(condition="is \udce9 red")
    assert done.exit_code == 1
    assert "half a surrogate pair, or bytes that are not UTF-8" in done.stderr


def test_the_reference_is_turned_as_its_exif_orientation_says(search, tmp_path):
    upright = Image.open(tmp_path / "gallery/2.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "phone.png", exif=exif)
    turned, expected, stored = (
        read(search("--json", image=name))["results"] for name in ("phone.png", "upright.png", "gallery/3.png")
    )
    assert turned == expected != stored
