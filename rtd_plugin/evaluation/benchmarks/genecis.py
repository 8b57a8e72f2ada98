"""GeneCIS: A Benchmark for General Conditional Image Similarity (Vaze et al., CVPR 2023)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, get_args

from PIL import Image
from pydantic import Field

from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Query
from rtd_plugin.evaluation.benchmarks.files import FileBenchmark, Id, Record, find_file
from rtd_plugin.evaluation.image_files import check_size
from rtd_plugin.paths import RecipePath

Task = Literal["focus_attribute", "change_attribute", "focus_object", "change_object"]
DILATION = 0.7  # share of a box's sides that the crop adds on each side


Place = Annotated[float, Field(allow_inf_nan=False)]
Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Whole(Record):
    val_image_id: Id

    @property
    def name(self) -> str:
        return f"{self.val_image_id:012d}"


class _Crop(Record):
    image_id: Id
    instance_bbox: tuple[Place, Place, Length, Length]  # left, top, width, height

    @property
    def name(self) -> str:
        return " ".join(map(str, (self.image_id, *self.instance_bbox)))


View = TypeVar("View", _Whole, _Crop)


class _Query(Record, Generic[View]):
    reference: View
    target: View
    gallery: list[View]
    condition: str


class GeneCIS(FileBenchmark):
    """Four tasks; each query has about a dozen candidates, and a condition of one or two words.

    A candidate that a query lists twice counts once.

    `data` has `TASK.json` for each task, the images of COCO's 2017 validation set in `val2017/`, and those of Visual
    Genome in `VG_100K/` and `VG_100K_2/`, or all in `VG_100K_all/`. The metrics of all queries are
    the means of the tasks' metrics.

    Attributes:
        tasks: the tasks that are evaluated.
        coco: folder of COCO's images, if not in `data`.
        visual_genome: folder of Visual Genome's images, if not in `data`.
    """

    name: ClassVar[str] = "genecis"
    home: ClassVar[str] = (
        "https://github.com/facebookresearch/genecis (tasks), https://cocodataset.org (2017 Val) and "
        "https://homes.cs.washington.edu/~ranjay/visualgenome (images)"
    )
    averages_groups: ClassVar[bool] = True
    recall_at: ClassVar[tuple[int, ...]] = (1, 2, 3)
    image_folders: ClassVar[tuple[str, ...]] = ("coco", "visual_genome")

    # Queries, and candidates of each.
    published: ClassVar[Mapping[str, tuple[int, int]]] = {"focus_object": (1960, 15), "change_object": (1960, 15)}

    tasks: tuple[Task, ...] = Field(get_args(Task), min_length=1)
    coco: RecipePath | None = None
    visual_genome: RecipePath | None = None

    @cached_property
    def _queries(self) -> dict[Task, list[_Query[Any]]]:
        whole, crop = list[_Query[_Whole]], list[_Query[_Crop]]
        return {
            task: self.read(self.data / f"{task}.json", whole if task.endswith("object") else crop, task)
            for task in self.tasks
        }

    @cached_property
    def _views(self) -> dict[str, _Whole | _Crop]:
        """All images by name; candidates first, then references that are not candidates."""
        queries = [query for queries in self._queries.values() for query in queries]
        ranked = [view for query in queries for view in (query.target, *query.gallery)]
        return {view.name: view for view in (*ranked, *(query.reference for query in queries))}

    def queries(self) -> Sequence[Query]:
        return [
            Query(
                reference=query.reference.name,
                conditions=(query.condition,),
                targets=(query.target.name,),
                candidates=tuple(dict.fromkeys(view.name for view in (query.target, *query.gallery))),
                groups=(task,),
            )
            for task, queries in self._queries.items()
            for query in queries
        ]

    def gallery(self) -> Sequence[str]:
        """Return all candidates of all queries."""
        return list(dict.fromkeys(name for query in self.queries() for name in query.candidates))

    def path(self, name: str) -> Path:
        view = self._views[name]
        if isinstance(view, _Whole):
            return (self.coco or self.data / "val2017") / f"{name}.jpg"
        folders = [self.data / folder for folder in ("VG_100K_all", "VG_100K", "VG_100K_2")]
        folders = [self.visual_genome] if self.visual_genome else folders
        return find_file([folder / f"{view.image_id}.jpg" for folder in folders])

    def stamp(self, name: str) -> str | None:
        view = self._views[name]
        box = view.instance_bbox if isinstance(view, _Crop) else ""
        return f"{super().stamp(name)} {box}"

    def image(self, name: str) -> Image.Image:
        """Return the whole image, or a crop around an object in it, padded to a square with black."""
        view, image = self._views[name], super().image(name)
        return image if isinstance(view, _Whole) else _crop_around(image, view.instance_bbox)

    def counts(self) -> Mapping[str, tuple[int, int]]:
        return {task: (len(queries), 1 + len(queries[0].gallery)) for task, queries in self._queries.items() if queries}


def _crop_around(image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """Return a box (left, top, width, height) of an image with its surroundings, centered in a black square."""
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    left, top, width, height = box
    left, top = max(0, left - DILATION * width), max(0, top - DILATION * height)
    right = min(image.width, left + (1 + DILATION) * width)
    bottom = min(image.height, top + (1 + DILATION) * height)
    if right <= left or bottom <= top:
        raise RTDError(f"a box {box} (left, top, width, height) outside an image of {image.width} x {image.height}")
    crop = image.crop((left, top, right, bottom))
    side = max(crop.size)
    check_size("the square around a crop", (side, side))
    square = Image.new(crop.mode, (side, side))
    square.paste(crop, ((side - crop.width) // 2, (side - crop.height) // 2))
    return square
