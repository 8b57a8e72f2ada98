"""Patterns that only the register `statements` has, beside those of `patterns`: what people say of clothes.

Their fields are the same. Some are always empty and restrict a pattern: {pattern} to another print, {plain} to none,
{vivid} and {muted} to such a colour after one of the other sort. Others say a value as people do: {new_hue} is a colour
of one word, {new_print} "stripes" for "striped", {new_sleeves} and {other_sleeves} "long sleeves" and "longer sleeves"
for "long-sleeved", {revealing} "more revealing" or "less revealing".
"""

_VALUES = (
    "{sole}{colour}is {new_value} colored",
    "{sole}is more {new_hue}",
    "{sole}{predicative}{new_value}",
    "{sole}{colour}{new_value} in color",
    "{sole}{pattern}is more {new_value}",
    "{sole}{pattern}is {new_value}",
    "{sole}{pattern}has a {new_value} pattern",
    "{sole}{pattern}has a {new_value} design",
    "{sole}has {new_print}",
    "{sole}has {new_print} on it",
    "{sole}it has {new_print}",
    "{sole}{plain}is a solid color",
    "{sole}{plain}is solid colored",
    "{sole}{plain}is more plain",
    "{sole}{plain}has no pattern",
    "{sole}has {new_sleeves}",
    "{sole}it has {new_sleeves}",
    "{sole}it is {a_new}",
    "{sole}{colour}it is {new_value}",
    "{sole}comes with {new_sleeves}",
)
_COMPARISONS = (
    "{sole}it is {comparative}",
    "{sole}is much {comparative}",
    "{sole}{colour}is {comparative} in color",
    "{sole}{colour}is {comparative} colored",
    "{sole}{colour}is a {comparative} color",
    "{sole}{colour}has a {comparative} color",
    "{sole}{vivid}is brighter",
    "{sole}{vivid}is brighter in color",
    "{sole}{vivid}is more colorful",
    "{sole}{vivid}has more color",
    "{sole}{muted}is less colorful",
    "{sole}{muted}has less color",
    "{sole}is {revealing}",
    "{sole}has {other_sleeves}",
    "{sole}it has {other_sleeves}",
    "{sole}{comparative}",
    "{sole}{colour}{comparative} in color",
)
STATEMENT_PATTERNS = {
    "attribute": (
        *_VALUES,
        *_COMPARISONS,
        "{sole}is less {old_hue}",
        "{sole}{colour}is a different color",
        "{sole}{colour}is {new_value} and not {old_value} in color",
        "{sole}{plain}is less {old_value}",
        "{sole}{plain}has less of a pattern",
    ),
    "describe": _VALUES,
    "noun": ("has {a_new}", "it has {a_new}", "has {a_new} but no {old}"),
    "add": (
        "it has {a_thing}",
        "{with}has {a_thing} on it",
        "{with}comes with {a_thing}",
    ),
    "remove": (
        "it has no {bare}",
        "{with}is without {a_thing}",
        "{with}does not have {a_thing}",
    ),
}
"""A kind of request to its further patterns."""
