"""Sources that make their triplets of captions: by rule, or with a language model."""

import tempfile
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from rtd_plugin.contract.hookspecs import hookimpl
from rtd_plugin.paths import ModelName, RecipePath
from rtd_plugin.triplets.json_source import ANY
from rtd_plugin.triplets.records import records
from rtd_plugin.triplets.sources import load_records
from rtd_plugin.triplets.triplet import TripletSet, TripletSource


class RuleTriplets(TripletSource):
    """Triplets by rule, made anew whenever a run starts: for many captions, build a file once and use that.

    Attributes:
        captions: the file, as `rtd-plugin triplets build rules` takes it.
        column: which of its columns or keys has the captions.
        per_caption: triplets of one caption, at most.
        seed: of all choices.
        model, pretrained, checkpoint: a backbone in whose text space similarity is judged; none: the captions tell.
    """

    name: ClassVar[str] = "rules"

    captions: RecipePath
    column: str | None = None
    per_caption: int = Field(5, gt=0)
    seed: int = 0
    model: ModelName | None = None
    pretrained: str | None = None
    checkpoint: RecipePath | None = None

    def load(self) -> TripletSet:
        """Make the triplets."""
        from rtd_plugin.generation.rules.build import build

        embed = None
        if self.model or self.checkpoint:
            from rtd_plugin.clip.backbones import Backbone
            from rtd_plugin.generation.similarity import embedding

            embed = embedding(Backbone(self.model, self.pretrained, self.checkpoint))
        with tempfile.TemporaryDirectory(prefix="rtd-plugin-") as folder:
            output = Path(folder) / "triplets.jsonl"
            build(self.captions, output, column=self.column, per_caption=self.per_caption, seed=self.seed, embed=embed)
            return load_records(str(self.captions), records(output, ANY), ANY, skip_invalid=False)


class LlmTriplets(TripletSource):
    """Triplets by a language model; what is missing of them is asked for when a run starts.

    Attributes:
        captions: the file, as `rtd-plugin triplets build llm` takes it.
        output: the file that has the triplets, or will have them.
        column: which of the captions' columns or keys has them.
        endpoint, model: the server, and the model's name there.
        limit: requests that a run may send.
        per_caption: triplets to ask for.
    """

    name: ClassVar[str] = "llm"

    captions: RecipePath
    output: RecipePath
    column: str | None = None
    endpoint: str
    model: str
    limit: int = Field(1000, gt=0)
    per_caption: int = Field(2, gt=0, le=20)

    def load(self) -> TripletSet:
        """Ask for the triplets that are missing, and read all."""
        from rtd_plugin.generation.llm import Server, answers_of, build

        if not self.output.is_file() or answers_of(self.output).is_file():
            build(
                self.captions,
                self.output,
                Server(self.endpoint, self.model),
                limit=self.limit,
                column=self.column,
                per_caption=self.per_caption,
            )
        return load_records(str(self.output), records(self.output, ANY), ANY, skip_invalid=False)


@hookimpl
def rtd_triplet_sources() -> list[type[TripletSource]]:
    """The sources `rules` and `llm`."""
    return [RuleTriplets, LlmTriplets]
