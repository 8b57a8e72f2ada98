"""Fingerprints of text towers: a digest of the weights, and features that survive rounding to another dtype."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from rtd_plugin.clip.tokens import END, START
from rtd_plugin.clip.tower import TextTower

PROBE_TEXTS = ("a photo of a dog", "two red cars on a wet street", "the number 7", "an empty room, seen from above")
# Tokens of the texts, as literals: probes are also computed inside hosts, which may lack the tokenizer's packages.
PROBE_TOKENS = (
    (320, 1125, 539, 320, 1929),
    (1237, 736, 3346, 525, 320, 6682, 2012),
    (518, 2842, 278),
    (550, 7893, 1530, 267, 2041, 633, 4348),
)
PROBE_FEATURES = 16  # values kept of each text's feature
PROBE_TOLERANCE = 0.01  # largest difference between probes of one CLIP in different dtypes


def digest(tower: TextTower) -> str:
    """Return the SHA-256 of the names, shapes and fp32 values of all weights, in hexadecimal digits.

    It does not depend on the dtype that holds the same values.
    """
    sha = hashlib.sha256()
    for name, weight in sorted(tower.state_dict().items()):
        sha.update(f"{name}{tuple(weight.shape)}".encode())
        sha.update(weight.detach().float().cpu().contiguous().numpy().data)
    return sha.hexdigest()


@torch.no_grad()
def probe(tower: TextTower) -> Tensor:
    """Return the first values of a few texts' normalised features, (4, 16) fp32 on the CPU.

    Another CLIP differs in the first digit; the same CLIP in fp16 in the third.
    """
    rows = [torch.tensor([START, *text[: tower.context_length - 2], END]) for text in PROBE_TOKENS]
    features = tower.encode(pad_sequence(rows, batch_first=True).to(tower.device)).float()
    return F.normalize(features, dim=-1)[:, :PROBE_FEATURES].cpu()
