"""`rtd-plugin serve`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rtd_plugin.cli.console import announce_loading, print_lines, progress
from rtd_plugin.cli.options import FILE, SKIP_UNREADABLE, model_options
from rtd_plugin.printable import count_noun

if TYPE_CHECKING:
    from rtd_plugin.serving.service import Service


@click.command()
@click.option("--images", type=FILE, help="The folder to search, with its subfolders. Default: the miniature.")
@click.option("--index", help="The index to search instead, which `rtd-plugin index` built.")
@click.option("--image-root", "image_roots", type=FILE, multiple=True, help="A folder that links to images lead to.")
@SKIP_UNREADABLE
@model_options
@click.option("--host", default="localhost", show_default=True, help="Where to listen; 0.0.0.0 for all of the network.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for any that is free.")
@click.option("--allow-host", "allow_hosts", multiple=True, help="A name of this machine that browsers may use.")
@click.option("--allow-origin", "allow_origins", multiple=True, help="A site whose pages may ask, as https://a.org.")
@click.option("--megabytes", type=click.FloatRange(0.001), default=10, show_default=True, help="Largest image.")
@click.option("--megapixels", type=click.FloatRange(0.001, 89), default=40, show_default=True, help="Largest image.")
@click.option("--seconds", type=click.FloatRange(0.1), default=30, show_default=True, help="Longest request.")
@click.option("--waiting", type=click.IntRange(1), default=128, show_default=True, help="Queries that may wait.")
def command(
    images: Path | None,
    host: str,
    port: int,
    allow_hosts: tuple[str, ...],
    allow_origins: tuple[str, ...],
    megabytes: float,
    megapixels: float,
    seconds: float,
    waiting: int,
    **options: Any,
) -> None:
    """Search a folder or an index in a browser: an image and a condition, before and after tuning, side by side.

    With no folder and no index, on the miniature. Programs ask over HTTP: http://localhost:8000/docs describes it.

    \b
    Examples:
      rtd-plugin serve
      rtd-plugin serve --images catalogue --weights runs/mine
      rtd-plugin serve --index catalogue.lance --weights runs/mine --port 8080
    """
    announce_loading()
    from rtd_plugin.workflows.serve import Address, Limits, serve  # imports torch, which `--help` does not need

    serve(
        images,
        address=Address(host, port, allow_hosts, allow_origins),
        limits=Limits(int(megabytes * 1e6), int(megapixels * 1e6), seconds, waiting),
        announce=_announce,
        progress=progress,
        **options,
    )


def _announce(url: str, service: "Service") -> None:
    lines = [f"{remark}." for remark in service.remarks]
    print_lines(f"Serving {count_noun(service.size, 'image')} on {url} (Ctrl-C stops it).", *lines)
