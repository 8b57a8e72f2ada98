"""A run: the loaded objects that a recipe names, and the folder of its results."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import yaml
from torch import Tensor, nn

from rtd_plugin.checkpoint_parts import hash_checkpoint
from rtd_plugin.clip.artifact import TextEncoderInfo, save_text_encoder
from rtd_plugin.clip.fingerprint import digest, probe
from rtd_plugin.clip.tokens import END, START
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.clip.weight_files import FILE_NAME
from rtd_plugin.contract import plugins
from rtd_plugin.contract.adapter import Adapter, load_projection
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.files import write_text
from rtd_plugin.progress import Advance, ignore_progress
from rtd_plugin.training.checkpoints import CheckpointStore
from rtd_plugin.training.order import HELD_OUT, WORDINGS, stream_seed
from rtd_plugin.training.rate_trials import read_search
from rtd_plugin.training.recipe import Recipe, read_recipe
from rtd_plugin.triplets.mixture import Mixture
from rtd_plugin.triplets.source_cache import open_source
from rtd_plugin.triplets.token_store import TokenStore, open_token_store

RECIPE_FILE = "recipe.yaml"
MAX_HELD_OUT = 2000  # triplets: enough for an interval of ± 2 points, and ranked in seconds
# On resuming; the order of the data does not change with them.
MAY_CHANGE = (
    "steps",
    "optimizer",
    "precision",
    "gradient_precision",
    "checkpoints",
    "validation",
    "evaluation",
    "tracker",
)
MAY_CHANGE_IN_SEARCH = ("checkpoints", "evaluation", "tracker")  # while the learning rate is being chosen


@dataclass(frozen=True)
class Run:
    """The loaded objects of a run.

    Attributes:
        recipe: as resolved.
        folder: of recipe, metrics, checkpoints and result.
        adapter: the method.
        tower: ψ₀, the pre-trained text tower.
        projection: φ, frozen.
        triplets: to train on, of all sources in turn, as tokens, each source with its share; with `wording.sample`, one
            for each request.
        held_out: the triplets that the recipe's validation holds out, if it does.
        skipped: broken records that the sources left out.
        base_digest, base_probe: fingerprints of ψ₀.
        projection_digest: SHA-256 of φ's file; of several, that of their names and SHA-256s.
        triplet_digests: one per source.
        began_with: number of processes that the run started with, which the order of the data depends on; None for a
            new run, of any number.
    """

    recipe: Recipe
    folder: Path
    adapter: Adapter
    tower: TextTower
    projection: nn.Module
    triplets: TokenStore
    skipped: int
    base_digest: str
    base_probe: Tensor
    projection_digest: str
    triplet_digests: list[str]
    held_out: TokenStore | None = None
    began_with: int | None = None

    def count_batches(self, processes: int) -> int:
        """Return how many batches each of some processes takes in a step: the same step as that of `began_with`.

        Raises:
            RTDError: the batches of a step cannot be shared equally among them.
        """
        began_with = self.began_with or processes
        batches = self.recipe.accumulation * began_with
        if began_with != processes and (batches % processes or self.recipe.objective.negatives == "gathered"):
            counts = [count for count in range(1, batches + 1) if batches % count == 0]
            if self.recipe.objective.negatives == "gathered":
                counts = [began_with]  # whose batches are each other's negatives
            raise RTDError(
                f"{self.folder}: started with {began_with} process(es), so it cannot resume with {processes}: "
                f"start {' or '.join(map(str, counts))}"
            )
        return batches // processes

    def list_tokens(self) -> list[int]:
        """Return the ids of the tokens in the run's texts and prompts, ascending."""
        prompt, unconditioned = self.adapter.prompt.fill(condition=[]), self.adapter.unconditioned_prompt.fill()
        return sorted({START, END, *prompt, *unconditioned, *self.triplets.vocabulary})

    @property
    def text_encoder(self) -> Path:
        """Path of the result."""
        return self.folder / FILE_NAME

    def save(self, tower: TextTower, step: int) -> None:
        """Write the tuned tower as the run's result."""
        info = TextEncoderInfo(
            version=version("rtd-plugin"),
            activation=tower.activation,
            heads=tower.heads,
            backbone=self.recipe.backbone.name,
            base_digest=self.base_digest,
            base_probe=self.base_probe.tolist(),
            adapter=self.adapter.name,
            projection_digest=self.projection_digest,
            triplets=self.triplet_digests,
            step=step,
        )
        save_text_encoder(self.text_encoder, tower, info)


def load_run(recipe: Recipe, folder: Path, advance: Advance = ignore_progress) -> Run:
    """Load what a recipe names.

    Args:
        recipe: as resolved.
        folder: where results will go.
        advance: called while triplets are tokenised, which happens once for the same triplets.

    Raises:
        RTDError: a file is missing or broken, or does not fit the rest.
    """
    adapter = plugins.find_adapter(recipe.adapter)
    tower = recipe.backbone.load_text_tower().eval().requires_grad_(False)
    projection = load_projection(adapter, recipe.projection, tower.features, tower.width)
    # After the models, which are checked in seconds: millions of triplets take minutes.
    sets = [open_source(source) for source in recipe.triplets]
    mixture = Mixture([triplets.count for triplets in sets], [source.weight for source in recipe.triplets])
    store, held_out = open_token_store(sets, adapter.prompt, advance).reorder(mixture), None
    if recipe.wording.sample:
        store = store.sample_wordings(stream_seed(recipe.seed, WORDINGS))
    if (share := _share_held_out(recipe)) is not None:
        store, held_out = store.hold_out(share, MAX_HELD_OUT, stream_seed(recipe.seed, HELD_OUT))
    return Run(
        recipe=recipe,
        folder=folder,
        adapter=adapter,
        tower=tower,
        projection=projection,
        triplets=store,
        skipped=sum(triplets.skipped for triplets in sets),
        base_digest=digest(tower),
        base_probe=probe(tower),
        projection_digest=_hash_projection(recipe.projection),
        triplet_digests=[triplets.digest for triplets in sets],
        held_out=held_out,
    )


def _share_held_out(recipe: Recipe) -> float | None:
    return None if recipe.validation is None else recipe.validation.triplets


def _hash_projection(projection: Path | Mapping[str, Path]) -> str:
    if not isinstance(projection, Mapping):
        return hash_checkpoint(projection)
    lines = (f"{name} {hash_checkpoint(path)}\n" for name, path in sorted(projection.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Write a resolved recipe into a run's folder."""
    write_text(folder / RECIPE_FILE, yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True))


def resume_recipe(folder: Path, overrides: Sequence[str], adapter: str | None) -> Recipe:
    """Read the recipe of a run to resume, with overrides of the keys that may change.

    Raises:
        UsageError: an override would make it another run.
    """
    began = read_recipe(folder / RECIPE_FILE)
    recipe = read_recipe(folder / RECIPE_FILE, overrides, adapter)
    now = recipe.to_dict()
    may_change = MAY_CHANGE_IN_SEARCH if began.optimizer.is_searched else MAY_CHANGE
    while_searching = " while its learning rate is being chosen" if began.optimizer.is_searched else ""
    for key, value in began.to_dict().items():
        if key not in may_change and now[key] != value:
            raise UsageError(
                f"{folder}: a run cannot resume with another {key} than it started with ({value!r}){while_searching}: "
                f"only {', '.join(may_change)} may change"
            )
    if recipe.optimizer.is_searched and not began.optimizer.is_searched:
        search = read_search(folder)
        if search is not None and search.candidates == recipe.optimizer.learning_rate:
            recipe = search.settle(recipe)  # the command that began the search, once more
        else:
            raise UsageError(
                f"{folder}: has a learning rate ({began.optimizer.rate:g}), so it cannot search for one: "
                "start a new run with another --output"
            )
    if _share_held_out(began) != _share_held_out(recipe):
        raise UsageError(f"{folder}: a run cannot resume with another validation.triplets than it began with")
    taken = CheckpointStore(folder, recipe.checkpoints.keep).list_steps()
    if taken and taken[-1] > recipe.steps:
        raise UsageError(f"{folder}: already took {taken[-1]} steps, so it cannot resume with steps={recipe.steps}")
    return recipe
