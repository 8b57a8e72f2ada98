"""Random words in conditions, so that an encoder learns to infer an edit from the rest of a sentence.

Only words that neither caption has are replaced, such as verbs: the content of an edit is in the captions too. It helps
with wordings that no triplet has.
"""

import numpy as np
import torch
from torch import nn

from rtd_plugin.clip.tokens import START
from rtd_plugin.training.run import Run
from rtd_plugin.triplets.ragged import Ragged
from rtd_plugin.triplets.token_store import TokenBatch

FIRST_WORD = 512  # CLIP's smaller ids are single bytes


def replace_words(triplets: TokenBatch, share: float, seed: int, vocabulary: int, placeholder: int) -> TokenBatch:
    """Replace tokens of conditions by random ones of CLIP's vocabulary.

    Args:
        triplets: B of them.
        share: the probability for each token that occurs in neither caption of its triplet, 0 to 1.
        seed: of the draw, any number of 64 bits.
        vocabulary: number of token embeddings of the text tower.
        placeholder: id of the prompt's placeholder, which is never drawn.

    Returns:
        The triplets with conditions of the same lengths.
    """
    conditions = triplets.conditions
    keys = _make_keys(conditions)
    in_captions = np.isin(keys, np.concatenate([_make_keys(triplets.references), _make_keys(triplets.targets)]))
    words = np.arange(FIRST_WORD, min(vocabulary, START), dtype=conditions.values.dtype)
    generator = np.random.default_rng(seed)
    replaced = (generator.random(len(keys)) < share) & ~in_captions
    drawn = generator.choice(words[words != placeholder], len(keys))
    return triplets._replace(conditions=conditions._replace(values=np.where(replaced, drawn, conditions.values)))


def _make_keys(texts: Ragged) -> np.ndarray:
    """Return an integer for each token that is equal only for equal tokens of the same row, (T,) int64."""
    return np.repeat(np.arange(len(texts.lengths)) << 16, texts.lengths) | texts.values


def freeze_other_embeddings(run: Run, embedding: nn.Embedding) -> None:
    """Let a run with word noise train only the embeddings of tokens in its texts and prompts.

    Others occur as noise alone: they keep what CLIP knows of them, up to weight decay.
    """
    is_frozen = torch.ones(len(embedding.weight), 1, dtype=torch.bool)
    is_frozen[run.list_tokens()] = False
    is_frozen = is_frozen.to(embedding.weight.device)
    # Not a product with a mask: in fp16 a gradient may be infinite.
    embedding.weight.register_hook(lambda gradient: gradient.masked_fill(is_frozen, 0))
