"""The projection modules of the three methods."""

import torch
from torch import nn
from torch.nn import functional as F


class Atlas(nn.Module):
    """Twice two pseudo tokens from the image, the prompt, and a database of features (N, D)."""

    def __init__(self, features, token_width, entries):
        super().__init__()
        self.register_buffer("images", torch.randn(entries, features))
        self.gate = nn.Linear(features, features)
        self.first, self.second = nn.Linear(features, token_width), nn.Linear(features, token_width)
        self.context = nn.Linear(features, token_width)

    def forward(self, features, text, patches=None):
        if patches is not None:
            features = features + patches.mean(dim=(1, 2)).unsqueeze(1)
        likeness = F.normalize(features, dim=-1) @ F.normalize(self.images, dim=-1).T
        retrieved = likeness.softmax(dim=-1) @ self.images
        mixed = features + torch.sigmoid(self.gate(F.normalize(text, dim=-1))) * retrieved
        context = self.context(retrieved)
        return tuple(torch.stack([stream(mixed), context], dim=1) for stream in (self.first, self.second))
