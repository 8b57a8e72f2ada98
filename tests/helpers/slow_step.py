"""A training step as in the paper, text by text and anchor by anchor: slow and simple."""

import torch

from rtd_plugin.clip.tokens import END, START, clean_caption, encode_text
from rtd_plugin.testing.reference import encode_slowly

PLACEHOLDER = 259


def compute_loss_slowly(queries, targets, temperature):
    rows = [row / row.norm() for row in [*queries, *targets]]
    n = len(queries)
    losses = []
    for anchor in range(2 * n):
        similarities = {row: rows[anchor] @ rows[row] / temperature for row in range(2 * n) if row != anchor}
        positive = similarities[(anchor + n) % (2 * n)]
        losses.append(torch.logsumexp(torch.stack(list(similarities.values())), 0) - positive)
    return torch.stack(losses).mean()


def take_slow_step(tower, frozen, projection, triplets, settings, noise, shares=(1,)):
    """Return the loss of triplets.

    Args:
        tower, frozen: ψ and ψ₀.
        projection: φ.
        triplets: B of them, raw.
        settings: the recipe's objective.
        noise: (B, D), added to the references' features.
        shares: of the pseudo tokens, for each of the composed queries whose features are averaged.
    """

    def tokenise(text):
        return encode_text(clean_caption(text))

    def encode(tower, ids, pseudo_tokens=None):
        return encode_slowly(tower, [START, *ids, END], pseudo_tokens, PLACEHOLDER)

    with torch.no_grad():
        targets = [encode(frozen, tokenise(triplet.target)) for triplet in triplets]
        references = [encode(frozen, tokenise(triplet.reference)) for triplet in triplets]
        pseudo_tokens = projection(torch.stack(references) + noise)
        if pseudo_tokens.ndim == 2:
            pseudo_tokens = pseudo_tokens.unsqueeze(1)

    def compose(index, ending):
        start = encode_text("a photo of")
        if settings.concatenation == "text":
            return encode(tower, start + tokenise(triplets[index].reference) + ending)
        features = [encode(tower, [*start, PLACEHOLDER, *ending], share * pseudo_tokens[index]) for share in shares]
        return sum(each / each.norm() for each in features)

    queries = [
        compose(index, encode_text("that " + triplet.condition.replace("$", " ")))
        for index, triplet in enumerate(triplets)
    ]
    if settings.hard_negatives:
        queries += [compose(index, []) for index in range(len(triplets))]
        targets += references
    return compute_loss_slowly(queries, targets, settings.temperature)
