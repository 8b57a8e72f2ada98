"""Text triplets of a shop's catalogue: a CSV file with the columns `item`, `wish` and `better`."""

import csv
import hashlib
from typing import ClassVar

from rtd_plugin.contract import RecipePath, RTDError, Triplet, TripletSet, TripletSource, hookimpl


class Catalogue(TripletSource):
    name: ClassVar[str] = "catalogue"

    path: RecipePath  # in a recipe: `- {source: catalogue, path: items.csv}`

    def load(self):
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                triplets = [Triplet(row["item"], row["wish"], row["better"]) for row in csv.DictReader(file)]
        except (OSError, KeyError) as error:
            raise RTDError(f"{self.path}: not a catalogue with item, wish and better: {error}") from error
        return TripletSet(triplets, hashlib.sha256(repr(triplets).encode()).hexdigest())


@hookimpl
def rtd_triplet_sources():
    return [Catalogue]
