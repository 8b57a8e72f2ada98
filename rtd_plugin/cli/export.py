"""`rtd-plugin export`."""

from pathlib import Path

import click

from rtd_plugin.cli.console import announce_loading, print_lines, show
from rtd_plugin.cli.options import JSON

LAYOUTS = ("openai", "huggingface", "rtd", "onnx")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--layout", type=click.Choice(LAYOUTS), required=True, help="The layout to write.")
@click.argument("file", type=click.Path(path_type=Path))
@JSON
def command(run: Path, layout: str, file: Path, as_json: bool) -> None:
    """Write the text encoder of RUN (a run folder or its text_encoder.safetensors) to FILE in another layout.

    openai is the layout of OpenAI's clip and of open_clip; huggingface that of CLIPTextModelWithProjection; rtd the
    checkpoints of the authors' code. A FILE ending in .safetensors is written as such, any other with torch.save. With
    huggingface, a FILE without an ending is a folder for from_pretrained. onnx writes two graphs that run without torch
    into the folder FILE: the composed query and the projection.

    \b
    Examples:
      rtd-plugin export runs/lincir-miniature --layout huggingface text_encoder
      rtd-plugin export runs/lincir-miniature --layout openai text_encoder.pt
      rtd-plugin export runs/lincir-miniature --layout onnx graphs
    """
    announce_loading()
    # Imports torch, which `--help` does not need.
    from rtd_plugin.workflows.export import export_text_encoder
    from rtd_plugin.workflows.onnx import export_onnx

    if layout == "onnx":
        export_onnx(run, file)
    else:
        export_text_encoder(run, layout, file)
    show(
        {"file": str(file), "layout": layout},
        as_json,
        lambda result: print_lines(f"Wrote {file} in the {layout} layout."),
    )
