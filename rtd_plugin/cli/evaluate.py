"""`rtd-plugin evaluate`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from rtd_plugin.cli.console import announce_loading, out, progress, show
from rtd_plugin.cli.options import FILE, JSON, model_options
from rtd_plugin.cli.results import comparison_tables


@click.command()
@click.option(
    "--benchmark", required=True, help="cirr, circo, fashioniq, genecis, pinpoint, folder, miniature, or a plugin's."
)
@click.option("--data", type=FILE, help="The benchmark's folder.")
@click.option("--split", help="val, test1, … Default: the one with targets.")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Another option of the benchmark.")
@click.option(
    "--skip-unreadable/--no-skip-unreadable",
    default=None,
    help="Skip unreadable images, with a warning. Default: for your own images.",
)
@model_options
@click.option("--output", type=FILE, help="Folder for the results. Default: a new one in ./evaluations.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for the queries in the report.")
@JSON
def command(as_json: bool, **options: Any) -> None:
    """Measure retrieval before and after: the pre-trained text encoder, and each of --weights.

    Writes results.json, a report with images, and the rank of each query's target (ranks.jsonl) or, for a split with
    secret targets, the files for its server.

    \b
    Examples:
      rtd-plugin evaluate --adapter lincir --benchmark miniature --weights runs/lincir-miniature
      rtd-plugin evaluate --adapter searle --model ViT-L-14 --pretrained openai --projection searle_xl.pt \\
          --benchmark cirr --data CIRR --weights runs/searle-vit-l-14
      torchrun --nproc-per-node 4 -m rtd_plugin evaluate --weights runs/mine --benchmark circo --data CIRCO
    """
    announce_loading()
    from rtd_plugin.workflows.evaluate import evaluate  # imports torch, which `--help` does not need

    results = evaluate(progress=progress, **options)
    if results is not None:
        show(results, as_json, _show_tables)


def _show_tables(results: Mapping[str, Any]) -> None:
    console = out()
    for table in comparison_tables(results):
        console.print(table)
    output = Path(results["output"])
    for file in results["submissions"]:
        console.print(f"Wrote {output / file} (submission).", soft_wrap=True)
    console.print(f"Wrote {output / results['report']}.", soft_wrap=True)
