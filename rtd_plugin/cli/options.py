"""Options that several commands share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from rtd_plugin.errors import UsageError

FILE = click.Path(path_type=Path)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
SKIP_UNREADABLE = click.option(
    "--skip-unreadable/--no-skip-unreadable",
    default=True,
    show_default=True,
    help="Skip unreadable images, with a warning.",
)
RAY = click.option(
    "--ray",
    metavar="auto|ADDRESS",
    help="Work on the machines of a Ray cluster, which have to see the same files. The result does not depend on it.",
)


def _parse_columns(context: click.Context, option: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    return _parse_pairs("--column", "TEXT=NAME, such as reference=caption", values)


def _parse_pairs(option: str, form: str, values: Sequence[str]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for text, equals, _ in pairs:
        if not equals:
            raise UsageError(f"{option} {text}: expected {form}")
    return {text: name for text, _, name in pairs}


COLUMNS = click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="TEXT=NAME",
    callback=_parse_columns,
    help="The column or key of a text: reference=…, condition=…, target=….",
)


def _parse_projection(
    context: click.Context, option: click.Parameter, values: Sequence[str]
) -> str | dict[str, str] | None:
    if not values or "=" not in values[-1] or Path(values[-1]).exists():
        return values[-1] if values else None  # as with any option, the last one counts
    return _parse_pairs("--projection", "NAME=FILE, such as checkpoint=phi.pt", values)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name the models, and how images are encoded."""
    options = (
        click.option("--adapter", help="The method: lincir, … (`rtd-plugin adapters` lists them)."),
        click.option(
            "--projection",
            multiple=True,
            metavar="FILE|NAME=FILE",
            callback=_parse_projection,
            help="The method's projection checkpoint; NAME=FILE for each file if the adapter has several.",
        ),
        click.option("--model", help="The backbone: an open_clip architecture, such as ViT-L-14."),
        click.option("--pretrained", help="open_clip's tag of the backbone's weights, such as openai."),
        click.option(
            "--checkpoint",
            type=FILE,
            help="The backbone's weights in a local file or folder.",
        ),
        click.option("--recipe", help="A recipe, by name or file, that names adapter, backbone and projection."),
        click.option(
            "--weights",
            type=FILE,
            multiple=True,
            help="A tuned text encoder: a run's folder, a file in any layout, or hf://USER/NAME[@REVISION]. May be "
            "repeated. A run also names its adapter, backbone and projection.",
        ),
        click.option(
            "--preprocess",
            type=click.Choice(["clip", "targetpad"]),
            default="clip",
            show_default=True,
            help="How images are prepared: CLIP's way, or with long images padded first.",
        ),
        click.option("--cache", type=FILE, help="Folder for image features. Default: ~/.cache/rtd-plugin."),
        click.option("--workers", type=click.IntRange(1), help="Threads reading images. Default: one for each core."),
        click.option("--device", help="Where to encode: cpu, cuda, cuda:1, … Default: a GPU if there is one."),
        click.option(
            "--precision",
            type=click.Choice(["fp32", "tf32", "bf16"]),
            help="In which to encode images and queries. Default: tf32 on a GPU, fp32 on a CPU.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command
