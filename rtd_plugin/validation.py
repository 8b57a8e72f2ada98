"""What pydantic found wrong with a value, as a sentence for the person who wrote the value."""

import reprlib
from dataclasses import dataclass

from pydantic import ValidationError


@dataclass(frozen=True)
class Problem:
    """The first problem of a `ValidationError`.

    Attributes:
        location: keys and list indices that lead to the value.
        type: pydantic's name of the problem, such as "missing".
        is_missing: whether the value is missing, or null where it must not be.
        sentence: what is wrong, without the location, such as "input should be greater than 0, found -1".
    """

    location: tuple[str | int, ...]
    type: str
    is_missing: bool
    sentence: str

    @property
    def key(self) -> str:
        """The location joined by dots: `triplets.0.path`; empty for the whole value."""
        return ".".join(map(str, self.location))


def describe_error(error: ValidationError) -> Problem:
    """Return the first problem of a validation error.

    Example:
        >>> from pydantic import TypeAdapter, ValidationError
        >>> try:
        ...     TypeAdapter(list[int]).validate_python([1, "two"])
        ... except ValidationError as error:
        ...     problem = describe_error(error)
        >>> problem.key
        '1'
        >>> problem.sentence
        "input should be a valid integer, unable to parse string as an integer, found 'two'"
    """
    first = error.errors()[0]
    message = first["msg"][0].lower() + first["msg"][1:]
    is_missing = first["type"] == "missing" or first["input"] is None
    match first["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            sentence = "no such key"
        case _ if is_missing:
            sentence = "is missing"
        case "value_error":  # raised by a validator, whose message says what it found
            sentence = str(first["ctx"]["error"])
        case "json_invalid":  # the input is the whole file
            sentence = message
        case "model_type" | "dataclass_type":
            sentence = f"expected a mapping, found {reprlib.repr(first['input'])}"
        case _:
            sentence = f"{message}, found {reprlib.repr(first['input'])}"
    return Problem(first["loc"], first["type"], is_missing, sentence)
