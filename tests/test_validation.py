"""Pydantic's errors as sentences."""

import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, field_validator

from rtd_plugin.validation import describe_error


class Inner(BaseModel):
    depth: int = 1


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int
    name: str = ""
    inner: list[Inner] = []

    @field_validator("name")
    @classmethod
    def check_name(cls, name):
        if name == "bad":
            raise ValueError("bad is not a name")
        return name


@pytest.mark.parametrize(
    ("value", "key", "sentence"),
    [
        ({}, "size", "is missing"),
        ({"size": None}, "size", "is missing"),
        ({"size": 1, "colour": "red"}, "colour", "no such key"),
        ({"size": 1, "name": "bad"}, "name", "bad is not a name"),
        ({"size": 1, "inner": [{}, 5]}, "inner.1", "expected a mapping, found 5"),
        (
            {"size": 1, "inner": [{"depth": "deep"}]},
            "inner.0.depth",
            "input should be a valid integer, unable to parse string as an integer, found 'deep'",
        ),
        ([], "", "expected a mapping, found []"),
    ],
)
def test_each_problem_is_a_sentence_with_its_key(value, key, sentence):
    with pytest.raises(ValidationError) as error:
        Model.model_validate(value)
    problem = describe_error(error.value)
    assert (problem.key, problem.sentence) == (key, sentence)


def test_invalid_json_is_described_without_the_whole_file():
    with pytest.raises(ValidationError) as error:
        TypeAdapter(list[int]).validate_json(b"[{")
    problem = describe_error(error.value)
    assert (problem.type, problem.key) == ("json_invalid", "")
    assert problem.sentence.startswith("invalid JSON: EOF while parsing an object")
