"""Checks of an adapter's prompts, and of the composed queries that training builds from them."""

import re
from typing import Any

import torch

from rtd_plugin.clip.tokens import CONTEXT_LENGTH, Prompt, encode_text, pad
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.testing.fixtures import (
    CONDITIONS,
    build_small_tower,
    encode_expected,
    make_pseudo_tokens,
    require,
    require_near,
)

PROMPTS = {"prompt": {"condition"}, "unconditioned_prompt": set(), "prompt_of_two": {"first", "second"}}


def check_name(adapter: Adapter) -> None:
    """Check that the adapter has a name for the command line, and a home."""
    name: Any = getattr(adapter, "name", None)
    home: Any = getattr(adapter, "home", None)
    require(isinstance(name, str), "it has no name: set `name`")
    require(
        re.fullmatch(r"[a-z0-9]+([._-][a-z0-9]+)*", name),
        f"the name {name!r} must be lower-case letters and digits, with single - . _ between them",
    )
    require(isinstance(home, str), "it has no address of the method's code or paper: set `home`")
    require(home.strip(), "its home is empty")


def check_prompts(adapter: Adapter) -> None:
    """Check that the three prompts share a placeholder, and that each has its conditions."""
    for attribute, conditions in PROMPTS.items():
        prompt: Any = getattr(adapter, attribute, None)
        require(isinstance(prompt, Prompt), f"{attribute} must be a Prompt, but is {prompt!r}")
        require(
            set(prompt.conditions) == conditions,
            f"{attribute} {prompt.template!r} has the conditions {sorted(prompt.conditions)}, "
            f"but needs {sorted(conditions) or 'none'}",
        )
        require(len(prompt.conditions) == len(conditions), f"{attribute} {prompt.template!r} has a condition twice")
        require(
            prompt.placeholder == adapter.prompt.placeholder,
            f"the placeholder of {attribute} is {prompt.placeholder!r}, that of prompt {adapter.prompt.placeholder!r}",
        )
    for prompt in (adapter.prompt, adapter.prompt_of_two):
        ids = prompt.encode(**dict.fromkeys(prompt.conditions, "very " * CONTEXT_LENGTH))
        require(
            prompt.placeholder_id in ids[:CONTEXT_LENGTH],
            f"a long condition cuts off the placeholder of prompt {prompt.template!r}: put it before the condition",
        )
    conditioned = _count_placeholders(adapter, adapter.prompt.encode(condition="is red"))
    unconditioned = _count_placeholders(adapter, adapter.unconditioned_prompt.encode())
    require(
        unconditioned == conditioned,
        f"the numbers of placeholders differ: {conditioned} in prompt, {unconditioned} in unconditioned_prompt",
    )


def check_two_conditions(adapter: Adapter) -> None:
    """Check that both conditions are in the prompt, in an order that matters, without new placeholders."""
    first, second = "is red", "has longer sleeves"
    ids = adapter.encode_two(first, second)
    for condition in (first, second):
        require(_contains(ids, encode_text(condition)), f"encode_two leaves out the condition {condition!r}")
    require(ids != adapter.encode_two(second, first), "encode_two returns the same prompt for both orders")
    expected = _count_placeholders(adapter, adapter.prompt.encode(condition=first))
    sign = adapter.prompt.placeholder
    for pair in ((first, second), (f"{first} {sign} ", f"{sign} {second}")):
        count = _count_placeholders(adapter, adapter.encode_two(*pair))
        require(
            count == expected, f"encode_two({pair[0]!r}, {pair[1]!r}) has {count} placeholders, but prompt {expected}"
        )


def check_composed_queries(adapter: Adapter) -> None:
    """Check that training's queries, in a batch and alone, equal those of the reference encoder."""
    tower, placeholder = build_small_tower(), adapter.prompt.placeholder_id
    vectors = make_pseudo_tokens(adapter, tower.width)
    for texts in (
        [adapter.prompt.encode(condition=condition) for condition in CONDITIONS],
        [adapter.unconditioned_prompt.encode()] * len(CONDITIONS),
        [adapter.encode_two(first, second) for first, second in zip(CONDITIONS, reversed(CONDITIONS), strict=True)],
    ):
        tokens = pad(texts, CONTEXT_LENGTH)
        expected = encode_expected(adapter, tokens, vectors)
        for rows in (slice(None), *(slice(row, row + 1) for row in range(len(tokens)))):
            with torch.no_grad():
                features = tower.encode(tokens[rows], vectors[rows], placeholder)
            require_near(features, expected[rows], f"the composed queries {texts[rows]} are wrong")


def _count_placeholders(adapter: Adapter, ids: list[int]) -> int:
    return ids.count(adapter.prompt.placeholder_id)


def _contains(ids: list[int], condition: list[int]) -> bool:
    return any(ids[start : start + len(condition)] == condition for start in range(len(ids)))
