"""Small CLIPs as the hosts have them, the towers of their weights, and an explicit composition to compare with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rtd_plugin.clip.tower import TextTower

W, D, CONTEXT, HEADS = 32, 24, 12, 2
START, END = 298, 299


@dataclass
class Host:
    """A host's CLIP: `encode` gives features (B, D) and, where the host can want them, last hidden states."""

    model: nn.Module
    tower: TextTower
    encode: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    embedding: nn.Embedding

    def encode_with(self, tokens: Tensor, vectors: Mapping[tuple[int, int], Tensor]) -> tuple[Tensor, Tensor | None]:
        """The model's own forward, with the embeddings at some (row, position) replaced by vectors (W,)."""

        def replace(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            output = output.clone()
            for (row, position), vector in vectors.items():
                output[row, position] = vector
            return output

        handle = self.embedding.register_forward_hook(replace)
        try:
            with torch.no_grad():
                return self.encode(tokens)
        finally:
            handle.remove()


@pytest.fixture
def openai(randomise) -> Host:
    """A CLIP of OpenAI's package, as SEARLE has it; Pic2Word's computes the same."""
    from clip.model import CLIP

    model = randomise(CLIP(D, 16, 1, 64, 16, CONTEXT, END + 1, W, HEADS, 2))
    tower = TextTower.from_state_dict(model.state_dict(), heads=HEADS).eval()
    return Host(model, tower, lambda tokens: (model.encode_text(tokens), None), model.token_embedding)


@pytest.fixture
def huggingface(randomise) -> Host:
    """A text model of transformers, as LinCIR has it."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=END + 1,
        hidden_size=W,
        intermediate_size=4 * W,
        projection_dim=D,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=0,
    )
    model = randomise(CLIPTextModelWithProjection(config))

    def encode(tokens: Tensor) -> tuple[Tensor, Tensor]:
        output = model(input_ids=tokens)
        return output.text_embeds, output.last_hidden_state

    tower = TextTower.from_state_dict(model.state_dict(), heads=HEADS).eval()
    return Host(model, tower, encode, model.get_input_embeddings())


@pytest.fixture
def tokenise() -> Callable[[Sequence[Sequence[int]]], Tensor]:
    """Token ids as a host's tokenizer gives them: start and end around them, zeros up to the context's length."""

    def tokenise(texts: Sequence[Sequence[int]]) -> Tensor:
        rows = [[START, *text, END] for text in texts]
        return torch.tensor([row + [0] * (CONTEXT - len(row)) for row in rows], dtype=torch.int32)

    return tokenise


@pytest.fixture
def assert_equal():
    """Compare features, which must also be those of different texts."""

    def assert_equal(features: Tensor, expected: Tensor, different: bool = True) -> None:
        torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
        if different and len(expected) > 1:
            assert torch.pdist(expected).min() > 0.1, "the texts' features do not differ, so nothing was compared"

    return assert_equal
