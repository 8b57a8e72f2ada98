"""Text triplets in JSON: the file that RTD's authors distribute, and JSON lines as InstructPix2Pix publishes them."""

from pathlib import Path
from typing import ClassVar

from rtd_plugin.contract.hookspecs import hookimpl
from rtd_plugin.paths import RecipePath
from rtd_plugin.triplets.records import Column, records
from rtd_plugin.triplets.sources import load_records
from rtd_plugin.triplets.triplet import TripletSet, TripletSource

# InstructPix2Pix's keys, in the order of Triplet's fields; the authors' come before them.
_INSTRUCTPIX2PIX: tuple[Column, ...] = (("caption", "input"), ("edit",), ("output",))
_AUTHORS: tuple[Column, ...] = (("reference_caption",), ("conditioning_caption",), ("target_caption",))
ANY: tuple[Column, ...] = tuple((*one, *other) for one, other in zip(_AUTHORS, _INSTRUCTPIX2PIX, strict=True))


class JsonTriplets(TripletSource):
    """Triplets of a JSON or JSON-lines file, UTF-8; its shape is found from its content.

    - one object with the lists `reference_caption`, `conditioning_caption` and `target_caption`;
    - an array of records with these keys;
    - JSON lines, one record a line.

    A record may have InstructPix2Pix's keys instead: `caption` or `input`, `edit`, `output`. Other keys are ignored.

    Attributes:
        path: the file.
        skip_invalid: leave broken records out and count them, instead of stopping at them.
    """

    name: ClassVar[str] = "json"
    keys: ClassVar[tuple[Column, ...]] = ANY

    path: RecipePath
    skip_invalid: bool = False

    def load(self) -> TripletSet:
        """Read all triplets, a few into memory, more into a temporary file; captions stay as they are written.

        Returns:
            The triplets in file order, the SHA-256 of their content in hexadecimal, the number of skipped records.

        Raises:
            RTDError: the file cannot be read or holds no triplet, or a record is broken and skip_invalid is not set.
        """
        return load_records(str(self.path), records(self.path, self.keys), self.keys, self.skip_invalid)

    def depends_on(self) -> list[Path]:
        """The file."""
        return [self.path]


class InstructPix2PixTriplets(JsonTriplets):
    """JSON lines with `caption` or `input`, `edit` and `output`, as InstructPix2Pix publishes them."""

    name: ClassVar[str] = "instructpix2pix"
    keys: ClassVar[tuple[Column, ...]] = _INSTRUCTPIX2PIX


@hookimpl
def rtd_triplet_sources() -> list[type[TripletSource]]:
    """The sources `json` and `instructpix2pix`."""
    return [JsonTriplets, InstructPix2PixTriplets]
