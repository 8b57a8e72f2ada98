"""Text triplets in JSON: the file that RTD's authors distribute, and JSON lines as InstructPix2Pix publishes them."""

from typing import ClassVar

from rtd_plugin.triplets.records import Column
from rtd_plugin.triplets.sources import FileSource
from rtd_plugin.triplets.triplet_file import JSON_COLUMNS


class JsonTriplets(FileSource):
    """Triplets of a JSON or JSON-lines file, UTF-8; its shape follows from its content.

    - one object with the lists `reference_caption`, `conditioning_caption` and `target_caption`;
    - an array of records with these keys;
    - JSON lines, one record a line.

    A record may have InstructPix2Pix's keys: `caption` or `input`, `edit`, `output`; `columns` names any others, such
    as `{reference: original_caption, condition: edit_prompt, target: edited_caption}`. Other keys are ignored.
    """

    name: ClassVar[str] = "json"
    default_columns: ClassVar[tuple[Column, ...]] = JSON_COLUMNS
