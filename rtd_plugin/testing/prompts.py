"""Checks of an adapter's prompts, and of the composed queries that training makes of them."""

import re

import torch

from rtd_plugin.clip.tokens import CONTEXT_LENGTH, Prompt, encode_text, pad
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.testing.fixtures import CONDITIONS, NEAR, pseudo_tokens, require, small_tower
from rtd_plugin.testing.reference import encode_slowly

PROMPTS = {"prompt": {"condition"}, "unconditioned_prompt": set(), "prompt_of_two": {"first", "second"}}


def check_name(adapter: Adapter) -> None:
    """A name for the command line, and a home."""
    name, home = getattr(adapter, "name", None), getattr(adapter, "home", None)
    require(isinstance(name, str), "it has no name: set `name`")
    require(
        re.fullmatch(r"[a-z0-9]+([._-][a-z0-9]+)*", name),
        f"the name {name!r} is to be lower-case letters, digits and single - . _ between them",
    )
    require(isinstance(home, str), "it says nowhere where the method's code or paper is: set `home`")
    require(home.strip(), "its home is empty")


def check_prompts(adapter: Adapter) -> None:
    """Three prompts with the same placeholder, each with the conditions it is for."""
    for attribute, conditions in PROMPTS.items():
        prompt = getattr(adapter, attribute, None)
        require(isinstance(prompt, Prompt), f"{attribute} is to be a Prompt, but is {prompt!r}")
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
    places = _places(adapter, adapter.prompt.encode(condition="is red"))
    alone = _places(adapter, adapter.unconditioned_prompt.encode())
    require(alone == places, f"prompt has {places} placeholders, but unconditioned_prompt {alone}")


def check_two_conditions(adapter: Adapter) -> None:
    """Both conditions are in the prompt, in an order that matters, without new placeholders."""
    first, second = "is red", "has longer sleeves"
    ids = adapter.encode_two(first, second)
    for condition in (first, second):
        require(_contains(ids, encode_text(condition)), f"encode_two leaves out the condition {condition!r}")
    require(ids != adapter.encode_two(second, first), "encode_two makes the same prompt of both orders")
    places = _places(adapter, adapter.prompt.encode(condition=first))
    sign = adapter.prompt.placeholder
    for pair in ((first, second), (f"{first} {sign} ", f"{sign} {second}")):
        found = _places(adapter, adapter.encode_two(*pair))
        require(found == places, f"encode_two makes {found} placeholders of {pair}, but prompt has {places}")


def check_composed_queries(adapter: Adapter) -> None:
    """Training's queries, in a batch and alone, are those of the written-out encoder."""
    tower, placeholder = small_tower(), adapter.prompt.placeholder_id
    vectors = pseudo_tokens(adapter, len(CONDITIONS), tower.width)
    for texts in (
        [adapter.prompt.encode(condition=condition) for condition in CONDITIONS],
        [adapter.unconditioned_prompt.encode()] * len(CONDITIONS),
        [adapter.encode_two(first, second) for first, second in zip(CONDITIONS, reversed(CONDITIONS), strict=True)],
    ):
        tokens = pad(texts, CONTEXT_LENGTH)
        with torch.no_grad():
            batch = tower.encode(tokens, vectors, placeholder)
            for number, row in enumerate(tokens.tolist()):
                expected = encode_slowly(tower, row, vectors[number].reshape(-1, tower.width), placeholder)
                alone = tower.encode(tokens[number : number + 1], vectors[number : number + 1], placeholder)[0]
                for found in (batch[number], alone):
                    torch.testing.assert_close(found, expected, **NEAR)


def _places(adapter: Adapter, ids: list[int]) -> int:
    return ids.count(adapter.prompt.placeholder_id)


def _contains(ids: list[int], part: list[int]) -> bool:
    return any(ids[start : start + len(part)] == part for start in range(len(ids)))
