"""The metrics that `evaluate` reports of the small benchmarks of the tests, and their groups."""

METRICS = {
    "cirr": [*(f"recall_at_{k}" for k in (1, 5, 10, 50)), *(f"subset_recall_at_{k}" for k in (1, 2, 3))],
    "circo": [f"{kind}_at_{k}" for kind in ("recall", "map") for k in (5, 10, 25, 50)] + ["cardinality", "negation"],
    "fashioniq": ["recall_at_10", "recall_at_50", "dress", "shirt", "toptee"],
    "genecis": [
        *(f"recall_at_{k}" for k in (1, 2, 3)),
        *("change_attribute", "change_object", "focus_attribute", "focus_object"),
    ],
    "folder": ["recall_at_1", "recall_at_5", "recall_at_10", "recall_at_50", "map_at_5", "map_at_10", "colour"],
}


def groups_of(row, name):
    return [value for value in row["metrics"][name].values() if isinstance(value, dict)]
