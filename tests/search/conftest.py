"""A catalogue of images."""

import json

import pytest

CONDITIONS = ["is a kettle", "has more children", "stands in the rain", "is red and has no laces", "is night"]


@pytest.fixture(scope="session")
def catalogue(write_dataset, tmp_path_factory):
    """A folder of twelve images, with queries."""
    folder = tmp_path_factory.mktemp("catalogue")
    write_dataset("folder", folder)
    names = [f"{index}.png" for index in range(8)]
    queries = [
        {"reference": names[index % 3], "condition": condition, "target": names[3 + index]}
        for index, condition in enumerate(CONDITIONS)
    ]
    (folder / "queries.csv").unlink()
    (folder / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    return folder
