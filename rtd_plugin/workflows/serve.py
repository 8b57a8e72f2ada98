"""Serves a gallery over HTTP with a page to search it, as `rtd-plugin serve` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtd_plugin.clip.weight_files import FILE_NAME
from rtd_plugin.errors import UsageError, require_extra
from rtd_plugin.evaluation.comparison import list_encoders
from rtd_plugin.miniature.benchmark import MiniatureBenchmark
from rtd_plugin.miniature.examples import draw_examples
from rtd_plugin.progress import Progress, no_progress
from rtd_plugin.search.galleries import MemoryGallery, SearchedGallery
from rtd_plugin.serving.service import Encoder, Limits, Service, Start
from rtd_plugin.triplets.parallel import count_processors
from rtd_plugin.workflows.loading import ModelOptions, Models, load_models
from rtd_plugin.workflows.runs import find_newest_run
from rtd_plugin.workflows.search import build_searcher, choose_gallery

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from typing_extensions import Unpack

METHOD = "lincir"  # whose miniature is shown if nothing is named
MINIATURE_BACKBONE = "rtd-miniature"
STARTS = 12  # queries that the page proposes


@dataclass(frozen=True)
class Address:
    """Where a service listens, and for whom.

    Attributes:
        host: a name or an address of this machine.
        port: 0 for any that is free.
        allow_hosts: names of this machine that requests may address, beside `localhost` and its addresses.
        allow_origins: other sites whose pages may ask, such as `https://example.org`.
    """

    host: str = "localhost"
    port: int = 8000
    allow_hosts: Sequence[str] = ()
    allow_origins: Sequence[str] = ()


def serve(
    images: str | Path | None = None,
    *,
    index: str | Path | None = None,
    image_roots: Sequence[str | Path] = (),
    skip_unreadable: bool = True,
    address: Address | None = None,
    limits: Limits | None = None,
    announce: Callable[[str, Service], object] = lambda url, service: None,
    progress: Progress = no_progress,
    **model_options: Unpack[ModelOptions],
) -> None:
    """Serve a gallery until Ctrl-C.

    Args:
        images: the folder to search, with its subfolders.
        index: an index to search instead, which `rtd-plugin index` built. Without both, the miniature is searched.
        image_roots: folders that links in the images' folder may lead to.
        skip_unreadable: whether images that cannot be read are left out, instead of being an error.
        address: where to listen.
        limits: what one client may ask for.
        announce: called with the service's address once it listens.
        progress: shows how far the work is, see `rtd_plugin.progress`.
        **model_options: as of `evaluate`.

    Raises:
        RTDError: a file is missing, broken, or does not fit the other files; the port is taken.
        UsageError: an option is missing or wrong.
    """
    with require_extra("serve", "the service"):
        from rtd_plugin.serving.app import make_app
        from rtd_plugin.serving.server import open_socket, run
    address, limits = address or Address(), limits or Limits()
    open_gallery = choose_gallery(images, index, image_roots, skip_unreadable)
    with open_socket(address.host, address.port) as listening:
        if open_gallery is not None:
            models = load_models(**model_options)
            service = build_service(models, open_gallery(models, progress))
        else:
            service = build_miniature_service(progress, **model_options)
        readers = model_options.get("workers") or count_processors()
        app: ASGIApp = make_app(service, limits, address.allow_hosts, address.allow_origins, readers)
        host = f"[{address.host}]" if ":" in address.host else address.host
        announce(f"http://{host}:{listening.getsockname()[1]}", service)
        run(app, listening, limits.seconds)


def build_service(models: Models, gallery: SearchedGallery) -> Service:
    """Return a service with the pre-trained text encoder and all tuned ones."""
    device = models.images.device
    encoders = [
        Encoder(name, path is not None, load_tower().to(device))
        for path, name, _, load_tower in list_encoders(models.tower, models.tuned)
    ]
    return Service(
        build_searcher(models, models.tower, gallery),
        gallery,
        encoders,
        f"{models.adapter.name} on {models.backbone.name}",
        remarks=gallery.remarks() if isinstance(gallery, MemoryGallery) else [],
        starts=[Start(name) for name in gallery.sample_names(STARTS)],
    )


def build_miniature_service(progress: Progress = no_progress, **model_options: Unpack[ModelOptions]) -> Service:
    """Return a service of the miniature's test gallery.

    By default its newest run is compared with the pre-trained text encoder.

    Raises:
        UsageError: options name another backbone.
    """
    options: dict[str, Any] = dict(model_options)
    remarks = []
    if not any(options.get(key) for key in ("adapter", "recipe", "weights")):
        options["adapter"] = METHOD
    if options.get("adapter") and not options.get("weights"):
        run = find_newest_run(f"{options['adapter']}-miniature")
        if run is not None and (run / FILE_NAME).is_file():
            options["weights"] = [run]
        else:
            command = f"rtd-plugin train --adapter {options['adapter']}"
            remarks = [f"Nothing is tuned here yet: stop, run `{command}` (about a minute), and start again"]
    models = load_models(miniature=True, **options)
    if models.backbone.name != MINIATURE_BACKBONE:
        raise UsageError("nothing to search: pass --images or --index")
    with progress("Encoding images") as advance:
        gallery = MemoryGallery(MiniatureBenchmark(), models.images, advance)
    service = build_service(models, gallery)
    service.remarks = remarks
    service.starts = [Start(*example) for example in draw_examples(STARTS)]
    return service
