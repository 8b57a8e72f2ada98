"""The contrastive loss against a loop over anchors."""

import math
import subprocess
import sys

import pytest
import torch
from slow_step import compute_loss_slowly

from rtd_plugin.errors import RTDError
from rtd_plugin.training.loss import rtd_loss


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize(("n", "width"), [(1, 4), (2, 3), (5, 16), (8, 2)])
def test_loss_is_the_loop_over_anchors(n, width, temperature):
    torch.manual_seed(n)
    queries, targets = torch.randn(n, width, requires_grad=True), 3 * torch.randn(n, width)
    targets.requires_grad_(True)
    loss, expected = rtd_loss(queries, targets, temperature), compute_loss_slowly(queries, targets, temperature)
    torch.testing.assert_close(loss, expected)
    for one, other in zip(
        torch.autograd.grad(loss, (queries, targets)), torch.autograd.grad(expected, (queries, targets)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_loss_by_hand():
    """Two pairs of equal unit vectors at right angles: each anchor has similarity 1 / 0.5 once and 0 twice."""
    rows = torch.eye(2)
    assert rtd_loss(rows, 7 * rows, 0.5).item() == pytest.approx(math.log(math.exp(2) + 2) - 2)


def test_loss_in_half_precision_is_computed_in_fp32():
    rows = torch.randn(4, 8, dtype=torch.bfloat16)
    torch.testing.assert_close(rtd_loss(rows, rows.flip(0)), rtd_loss(rows.float(), rows.flip(0).float()))


@pytest.mark.parametrize("shapes", [((2, 4), (3, 4)), ((4,), (4,)), ((2, 4), (2, 5))])
def test_loss_refuses_other_shapes(shapes):
    with pytest.raises(RTDError, match=r"both need \(n, D\)"):
        rtd_loss(*(torch.ones(shape) for shape in shapes))


def test_loss_is_imported_without_the_training_libraries():
    code = "import sys, rtd_plugin; rtd_plugin.rtd_loss; print(sys.modules.keys() & {'accelerate', 'open_clip'})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
