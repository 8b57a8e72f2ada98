"""Write composed queries as ONNX graphs, which run without torch."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rtd_plugin.clip.artifact import load_text_encoder
from rtd_plugin.clip.tokens import find_room, pad
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract import plugins
from rtd_plugin.contract.adapter import load_projection
from rtd_plugin.errors import RTDError, UsageError, require_extra
from rtd_plugin.files import write_atomically
from rtd_plugin.hub import find_run
from rtd_plugin.workflows.loading import find_sources

COMPOSED_QUERY, PROJECTION = "composed_query.onnx", "projection.onnx"
TOLERANCE = 1e-5  # of the largest value: how far the graphs may be from torch


class ComposedQuery(nn.Module):
    """The text tower as a graph: tokens (B, L) and pseudo tokens to features (B, D), not normalised."""

    def __init__(self, tower: TextTower, placeholder: int):
        super().__init__()
        self.tower = tower
        self.placeholder = placeholder

    def forward(self, tokens: Tensor, pseudo_tokens: Tensor) -> Tensor:
        return self.tower.encode(tokens, pseudo_tokens, self.placeholder)


def export_onnx(run: Path, folder: Path) -> None:
    """Write a run's composed query and projection as ONNX graphs, for batches of any size and texts of any length.

    `composed_query.onnx` maps `tokens` (B, L) int64 and `pseudo_tokens` (B, W), or (B, n, W), to `features` (B, D) as
    `TextTower.encode` does; `projection.onnx` maps `features` (B, D) of images to `pseudo_tokens`. Both are float32.
    Metadata of the former has the prompt, the placeholder's id, and the longest L.

    Args:
        run: the run's folder, whose recipe names adapter and projection.
        folder: a new folder, or one of an earlier export.

    Raises:
        UsageError: the folder holds other files.
        RTDError: the run has no text encoder or recipe, its projection reads more than features, the packages of the
            extra `onnx` are missing, or a graph gives other values than torch.
    """
    run = find_run(run)
    sources = find_sources(run)
    adapter = plugins.find_adapter(sources.adapter)
    if adapter.reads_queries:
        raise RTDError(f"{adapter.name}: its projection reads more than images' features, so it has no ONNX graph")
    with require_extra("onnx", "writing ONNX"):
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    known = {f"{name}{ending}" for name in (COMPOSED_QUERY, PROJECTION) for ending in ("", ".data")}
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - known):
        raise UsageError(f"{folder}: holds other files: name a new folder")
    tower = load_text_encoder(run)
    projection = load_projection(adapter, sources.projection, tower.features, tower.width)
    prompts = [adapter.prompt.encode(condition=condition) for condition in ("is red", "has no laces and is not blue")]
    features = torch.randn(len(prompts), tower.features, generator=torch.Generator().manual_seed(0))
    pseudo_tokens = projection(features)
    count = pseudo_tokens.shape[1] if pseudo_tokens.ndim == 3 else 1
    placeholder = adapter.prompt.placeholder_id
    longest = find_room(prompts[0], placeholder, count, tower.context_length)
    metadata = {
        "adapter": adapter.name,
        "prompt": adapter.prompt.template,
        "placeholder_id": str(placeholder),
        "context_length": str(longest),
    }
    batch = torch.export.Dim("batch")
    length = torch.export.Dim("length", min=2, max=longest)
    with write_atomically(folder) as draft:
        draft.mkdir()
        inputs = {"features": features}
        _write_graph(projection, inputs, {"features": {0: batch}}, "pseudo_tokens", draft / PROJECTION, {})
        inputs = {"tokens": pad(prompts, longest), "pseudo_tokens": pseudo_tokens}
        shapes: dict[str, dict[int, Any]] = {"tokens": {0: batch, 1: length}, "pseudo_tokens": {0: batch}}
        module = ComposedQuery(tower, placeholder).eval()
        _write_graph(module, inputs, shapes, "features", draft / COMPOSED_QUERY, metadata)


def _write_graph(
    module: nn.Module,
    inputs: dict[str, Tensor],
    shapes: dict[str, dict[int, Any]],
    output: str,
    file: Path,
    metadata: dict[str, str],
) -> None:
    with warnings.catch_warnings(), torch.no_grad(), _explain_exporter():
        warnings.simplefilter("ignore")  # warnings of the exporter
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            verbose=False,
            dynamic_shapes=tuple(shapes.values()),
            input_names=list(inputs),
            output_names=[output],
        )
        assert program is not None
        program.model.metadata_props.update(metadata)
        program.save(file)
        _check_graph(module, inputs, file)


@contextmanager
def _explain_exporter() -> Iterator[None]:
    """Convert errors of torch's exporter and of ONNX: they depend on their versions, not on the run."""
    try:
        yield
    except (RTDError, OSError):
        raise
    except Exception as error:
        raise RTDError(
            f"torch {torch.__version__} and the installed packages of the extra `onnx` cannot write this graph "
            f"({type(error).__name__}): install newer ones"
        ) from error


def _check_graph(module: nn.Module, inputs: dict[str, Tensor], file: Path) -> None:
    """Compare a graph with torch, also on a smaller batch than it was traced with."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for rows in (2, 1):
        selected = {name: value[:rows] for name, value in inputs.items()}
        expected = module(*selected.values())
        (output,) = session.run(None, {name: value.numpy() for name, value in selected.items()})
        difference = (torch.from_numpy(output) - expected).abs().max() / expected.abs().max()
        if not difference <= TOLERANCE:
            raise RTDError(f"{file.name}: the graph differs from torch by {difference:.2g}; please report it")
