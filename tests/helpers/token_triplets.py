"""Triplets' tokens one by one, as a reference for tokenising and reading many at once."""

import numpy as np

from rtd_plugin.clip.tokens import clean_caption, encode_text


def tokenise_triplet(triplet, prompt):
    """The token ids of reference, condition and target."""
    reference, target = (encode_text(clean_caption(text)) for text in (triplet.reference, triplet.target))
    return [reference, prompt.encode_condition(triplet.condition), target]


def read_store(store):
    """All triplets of a token store, as `tokenise_triplet` gives them."""
    batch = store.gather(np.arange(len(store)))
    columns = [np.split(texts.values, np.cumsum(texts.lengths)[:-1]) for texts in batch[:3]]
    return [[text.tolist() for text in row] for row in zip(*columns, strict=True)]
