"""Features of images: preprocessing, stamps, and images that cannot be read."""

import os

import open_clip
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as transforms

from rtd_plugin.clip.backbones import ImageEncoder
from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation import image_features
from rtd_plugin.evaluation.benchmark import Query
from rtd_plugin.evaluation.benchmarks.files import FileBenchmark
from rtd_plugin.evaluation.image_features import ImageFeatures, pad_to_ratio

NAMES = [f"{index}.png" for index in range(7)]
VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 77, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}


class Pictures(FileBenchmark):
    name = "pictures"
    home = "a drawer"

    def queries(self):
        return [Query("0.png", ("is red",), ("1.png",))]

    def gallery(self):
        return NAMES

    def path(self, name):
        return self.data / name


@pytest.fixture
def pictures(tmp_path):
    for index, name in enumerate(NAMES):
        pixels = torch.randint(256, (36, 20 + 8 * index, 3), generator=torch.Generator().manual_seed(index))
        Image.fromarray(pixels.byte().numpy()).save(tmp_path / name)
    return Pictures(data=str(tmp_path))


@pytest.fixture(scope="module")
def clip(randomise):
    return randomise(open_clip.CLIP(24, VISION, TEXT))


@pytest.fixture
def encoder(clip):
    """Counts the images that it encodes."""
    seen = []

    class Counting(ImageEncoder):
        def __call__(self, images):
            seen.append(len(images))
            return super().__call__(images)

    counting = Counting(clip.visual, open_clip.image_transform(32, is_train=False))
    object.__setattr__(counting, "seen", seen)
    return counting


def pop_image_count(encoder):
    total = sum(encoder.seen)
    encoder.seen.clear()
    return total


@pytest.mark.parametrize("size", [(40, 40), (40, 32), (40, 31), (31, 40), (100, 7), (7, 100), (333, 100), (1, 50)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_padding_equals_that_of_the_hosts(size, mode):
    """Against torchvision's padding with the index of pixels that the hosts' transform computes."""
    pixels = torch.randint(256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(pixels.byte().numpy()).convert(mode)
    wide, high = size
    if max(size) / min(size) < 1.25:
        assert pad_to_ratio(image) is image
        return
    across, down = (max(int((max(size) / 1.25 - side) / 2), 0) for side in size)
    expected = transforms.pad(image, [across, down, across, down], 0, "constant")
    padded = pad_to_ratio(image)
    assert padded.size == expected.size == (wide + 2 * across, high + 2 * down)
    assert max(padded.size) / min(padded.size) == pytest.approx(1.25, abs=0.1) or max(size) < 60
    assert padded.convert("RGB").tobytes() == expected.convert("RGB").tobytes()


def test_features_equal_those_of_the_tower(pictures, clip, encoder, monkeypatch):
    monkeypatch.setattr(image_features, "BATCHES", {"cpu": 3})
    features = ImageFeatures(encoder).encode(pictures, NAMES)
    with torch.no_grad():
        expected = [clip.encode_image(encoder.preprocess(pictures.image(name))[None]) for name in NAMES]
    torch.testing.assert_close(features, torch.cat(expected), rtol=1e-5, atol=1e-5)
    assert torch.pdist(features).min() > 0.1


def test_preprocessings_differ_for_long_images(pictures, encoder):
    clip, padded = (ImageFeatures(encoder, kind).encode(pictures, NAMES) for kind in ("clip", "targetpad"))
    changed = [not torch.allclose(one, other, atol=1e-4) for one, other in zip(clip, padded, strict=True)]
    whole = [pictures.image(name) for name in NAMES]
    assert changed == [pad_to_ratio(image).size != image.size for image in whole]
    assert 0 < sum(changed) < len(changed)


def test_features_are_kept_by_encoder_preprocessing_and_file(pictures, encoder, clip, randomise, tmp_path):
    """Another encoder, preprocessing or file is computed, and only that; another list of images is not."""
    folder = tmp_path / "cache"
    first = ImageFeatures(encoder, folder=folder).encode(pictures, NAMES)
    assert pop_image_count(encoder) == 7
    assert torch.equal(ImageFeatures(encoder, folder=folder).encode(pictures, NAMES[2:5]), first[2:5])
    assert pop_image_count(encoder) == 0
    ImageFeatures(encoder, "targetpad", folder=folder).encode(pictures, NAMES)
    assert pop_image_count(encoder) == 7
    pictures.image("3.png").rotate(180).save(pictures.path("3.png"))
    os.utime(pictures.path("3.png"), ns=(1, 1))
    again = ImageFeatures(encoder, folder=folder).encode(pictures, NAMES)
    assert pop_image_count(encoder) == 1
    assert [torch.equal(one, other) for one, other in zip(first, again, strict=True)] == [
        index != 3 for index in range(7)
    ]
    other = ImageEncoder(randomise(open_clip.CLIP(24, VISION, TEXT), seed=1).visual, encoder.preprocess)
    features = ImageFeatures(other, folder=folder).encode(pictures, NAMES)
    assert torch.equal(features, ImageFeatures(other).encode(pictures, NAMES))
    assert not torch.allclose(features, again, atol=0.1)


@pytest.mark.parametrize("change", [{"quick_gelu": True}, {"vision_cfg": VISION | {"head_width": 8}}])
def test_encoders_with_equal_weights_and_other_settings_differ(pictures, encoder, clip, tmp_path, change):
    """Another activation or index of heads makes another encoder of them."""
    other = open_clip.CLIP(**{"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT} | change).eval()
    other.load_state_dict(clip.state_dict())
    changed = ImageEncoder(other.visual, encoder.preprocess)
    one, two = (ImageFeatures(each, folder=tmp_path / "cache").encode(pictures, NAMES) for each in (encoder, changed))
    assert not torch.allclose(one, two, atol=1e-3)


def test_the_hash_of_a_preprocessing_is_the_same_in_each_process(pictures, encoder, tmp_path):
    """A function's address is not part of it."""
    for mean, folders in ((0.4, 1), (0.4, 1), (0.5, 2)):
        other = ImageEncoder(encoder.visual, open_clip.image_transform(32, is_train=False, mean=(mean,) * 3))
        ImageFeatures(other, folder=tmp_path).encode(pictures, NAMES)
        assert len(list((tmp_path / "images").iterdir())) == folders


def test_all_missing_images_are_named_before_any_is_encoded(pictures, encoder):
    for name in ("2.png", "5.png"):
        pictures.path(name).unlink()
    says = r"pictures: 2 images cannot be read: 2.png, 5.png \(2.png: .*No such file.*\); they are from a drawer"
    with pytest.raises(RTDError, match=says):
        ImageFeatures(encoder).encode(pictures, NAMES)
    assert pop_image_count(encoder) == 0


def test_broken_images_are_named_and_the_rest_is_kept(pictures, encoder, tmp_path):
    pictures.path("2.png").write_bytes(pictures.path("2.png").read_bytes()[:200])
    pictures.path("5.png").write_bytes(b"<html>not found</html>")
    folder = tmp_path / "cache"
    with pytest.raises(RTDError, match=r"pictures: 2 images cannot be read: 2.png, 5.png \(2.png: .*truncated"):
        ImageFeatures(encoder, folder=folder).encode(pictures, NAMES)
    assert pop_image_count(encoder) == 5
    for name in ("2.png", "5.png"):
        Image.new("RGB", (40, 40), "red").save(pictures.path(name))
    ImageFeatures(encoder, folder=folder).encode(pictures, NAMES)
    assert pop_image_count(encoder) == 2


def test_files_are_closed(pictures):
    """On some systems an open file cannot be replaced, and there may be a hundred thousand."""
    image = pictures.image("1.png")
    assert getattr(image, "fp", None) is None


def test_progress_counts_the_images_that_are_encoded(pictures, encoder, monkeypatch, tmp_path):
    monkeypatch.setattr(image_features, "BATCHES", {"cpu": 3})
    calls = []
    features = ImageFeatures(encoder, folder=tmp_path / "cache")
    features.encode(pictures, NAMES[:2])
    features.encode(pictures, NAMES, lambda done, total: calls.append((done, total)))
    assert calls == [(3, 5), (5, 5)]


def test_bf16_has_features_of_its_own(pictures, encoder, tmp_path):
    """Close to those in fp32, in another folder of the cache, from one tower for all else."""
    exact, rounded = (
        ImageFeatures(encoder, folder=tmp_path / "cache", precision=precision) for precision in ("fp32", "bf16")
    )
    expected = exact.encode(pictures, NAMES)
    assert pop_image_count(encoder) == len(NAMES)
    features = rounded.encode(pictures, NAMES)
    assert pop_image_count(encoder) == len(NAMES)
    assert features.dtype == torch.float32
    assert not torch.equal(features, expected)
    torch.testing.assert_close(features, expected, rtol=0.1, atol=0.05 * expected.abs().max().item())
    assert exact.digest == rounded.digest
    assert torch.equal(ImageFeatures(encoder, folder=tmp_path / "cache").encode(pictures, NAMES), expected)


def test_in_bf16_large_jpegs_are_decoded_smaller(clip, tmp_path):
    """But for towers that do not say their size."""
    sizes = []
    Image.new("RGB", (640, 320), "red").save(tmp_path / "0.png", format="JPEG")

    def preprocess(image):
        sizes.append(image.size)
        return torch.zeros(3, 32, 32)

    for precision in ("bf16", "fp32"):
        ImageFeatures(ImageEncoder(clip.visual, preprocess), precision=precision).encode(
            Pictures(data=str(tmp_path)), ["0.png"]
        )
    assert sizes == [(160, 80), (640, 320)]
