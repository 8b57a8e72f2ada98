"""SEARLE for torch.hub, which imports its function under a second name."""

from src.encode_with_pseudo_tokens import encode_with_pseudo_tokens


def searle():
    return encode_with_pseudo_tokens
