"""Composes queries: `validate.py CHECKPOINT OUTPUT`."""

import sys

import torch
from clip.model import build_model
from encode_with_pseudo_tokens import encode_with_pseudo_tokens

TEXTS = torch.zeros(3, 77, dtype=torch.int64)
TEXTS[:, :7] = torch.tensor(
    [[49406, 320, 259, 682, 736, 49407, 0], [49406, 259, 9, 8, 7, 6, 49407], [49406, 5, 259, 49407, 0, 0, 0]]
)
PSEUDO_TOKENS = torch.linspace(-1, 1, 3 * 64).reshape(3, 64)


def retrieve(checkpoint):
    """Composed queries, and plain texts with them."""
    model = build_model(torch.load(checkpoint)).float().eval()
    with torch.no_grad():
        composed = encode_with_pseudo_tokens(model, TEXTS, PSEUDO_TOKENS)
        return {"composed": composed, "plain": model.encode_text(TEXTS)}


if __name__ == "__main__":
    torch.save(retrieve(sys.argv[1]), sys.argv[2])
    print("recall = 50.00")
