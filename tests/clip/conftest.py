"""Small CLIPs of the three libraries, each with its own way to encode texts, and texts for them."""

from collections.abc import Callable
from dataclasses import dataclass

import open_clip
import pytest
import torch
from torch import Tensor, nn

PLACEHOLDER = 259


@dataclass
class Library:
    """A library's CLIP: `encode` takes tokens as long as its context, `embedding` is its token embedding."""

    model: nn.Module
    encode: Callable[[Tensor], Tensor]
    embedding: nn.Embedding
    vocabulary: int
    context_length: int

    def encode_with(self, tokens: Tensor, vectors: Tensor) -> Tensor:
        """The library's own forward, the embeddings of the placeholders left of the end replaced by vectors (K, W)."""
        tokens = self.pad_tokens(tokens)
        before_end = torch.arange(tokens.shape[1]) < tokens.argmax(dim=1, keepdim=True)
        where = (tokens == PLACEHOLDER) & before_end

        def replace(_module, _inputs, output):
            output = output.clone()
            output[where] = vectors
            return output

        handle = self.embedding.register_forward_hook(replace)
        try:
            return self.encode(tokens)
        finally:
            handle.remove()

    def pad_tokens(self, tokens: Tensor) -> Tensor:
        missing = self.context_length - tokens.shape[1]
        return torch.cat([tokens, tokens.new_zeros(len(tokens), missing)], dim=1)


def open_clip_model(vocabulary, context, width, heads, layers, features, activation, mlp_ratio=4.0):
    model = open_clip.CLIP(
        features,
        vision_cfg={"layers": 1, "width": 64, "patch_size": 16, "image_size": 16},
        text_cfg={
            "context_length": context,
            "vocab_size": vocabulary,
            "width": width,
            "heads": heads,
            "layers": layers,
            "mlp_ratio": mlp_ratio,
        },
        quick_gelu=activation == "quick_gelu",
    )
    return Library(model, model.encode_text, model.token_embedding, vocabulary, context)


def openai_model(vocabulary, context, width, heads, layers, features, activation="quick_gelu"):
    from clip.model import CLIP

    assert activation == "quick_gelu"  # the only one there is
    model = CLIP(features, 16, 1, 64, 16, context, vocabulary, width, heads, layers)
    return Library(model, model.encode_text, model.token_embedding, vocabulary, context)


def huggingface_model(vocabulary, context, width, heads, layers, features, activation, mlp_ratio=4.0):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=int(width * mlp_ratio),
        projection_dim=features,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        hidden_act=activation,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=0,
    )
    model = CLIPTextModelWithProjection(config)

    def encode(tokens):
        return model(input_ids=tokens).text_embeds

    embedding = model.get_input_embeddings()
    return Library(model, encode, embedding, vocabulary, context)


BUILDERS = {"open_clip": open_clip_model, "openai": openai_model, "huggingface": huggingface_model}


@pytest.fixture
def library(randomise):
    """Builds a library's small CLIP: `library("open_clip", vocabulary=…, …)`."""

    def build(name: str, seed: int = 0, **sizes) -> Library:
        built = BUILDERS[name](**sizes)
        randomise(built.model, seed)
        return built

    return build


@pytest.fixture
def make_tokens():
    """Random texts with placeholders: `make_tokens(vocabulary, [(length, [places of placeholders]), …])`."""

    def make(vocabulary: int, texts: list[tuple[int, list[int]]], seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.zeros(len(texts), max(length for length, _ in texts), dtype=torch.int64)
        for row, (length, places) in zip(tokens, texts, strict=True):
            row[:length] = torch.randint(1, PLACEHOLDER, (length,), generator=generator)
            row[places] = PLACEHOLDER
            row[0], row[length - 1] = vocabulary - 2, vocabulary - 1
        return tokens

    return make
