"""The precision of images and queries: its bounds, its cache, and what it leaves as it was."""

import pytest
import torch
from PIL import Image

from rtd_plugin.errors import UsageError
from rtd_plugin.evaluation.image_files import decode_smaller, open_image
from rtd_plugin.evaluation.precision import choose_precision, compute_in

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_the_device_chooses_unless_told():
    assert (choose_precision(None, GPU), choose_precision(None, CPU)) == ("tf32", "fp32")
    assert (choose_precision("fp32", GPU), choose_precision("bf16", CPU)) == ("fp32", "bf16")
    with pytest.raises(UsageError, match="tf32 needs a GPU, and the device is cpu"):
        choose_precision("tf32", CPU)
    with pytest.raises(UsageError, match="'fp8' is not one of fp32, tf32, bf16"):
        choose_precision("fp8", CPU)


def read_switches():
    cuda = torch.backends.cuda
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, cuda.cudnn_sdp_enabled()


def test_a_gpus_switches_are_set_and_restored():
    before = read_switches()
    with compute_in("tf32", GPU):
        assert read_switches() == ("high", True, False)
        with compute_in("fp32", GPU):
            assert read_switches() == ("highest", False, False)
    with compute_in("bf16", CPU):
        assert (torch.eye(2) @ torch.eye(2)).dtype == torch.bfloat16
        assert not torch.is_grad_enabled()
    with compute_in("fp32", CPU):
        assert (torch.eye(2) @ torch.eye(2)).dtype == torch.float32
    assert read_switches() == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("side", "size"), [(None, (800, 600)), (448, (800, 600)), (300, (400, 300)), (70, (100, 75))])
def test_jpegs_are_decoded_no_smaller_than_needed(tmp_path, side, size):
    Image.new("RGB", (800, 600), "red").save(tmp_path / "red.jpg")
    Image.new("RGB", (800, 600), "red").save(tmp_path / "red.png")
    with decode_smaller(side):
        assert open_image(tmp_path / "red.jpg").size == size
        assert open_image(tmp_path / "red.png").size == (800, 600)
    assert open_image(tmp_path / "red.jpg").size == (800, 600)
