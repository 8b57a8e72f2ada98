"""`rtd-plugin train`."""

import json
from pathlib import Path
from typing import Any

import click

from rtd_plugin.cli.console import out, print_json
from rtd_plugin.cli.results import comparison_tables
from rtd_plugin.cli.shell import quote


@click.command()
@click.option("--adapter", help="The method: lincir, … (`rtd-plugin adapters` lists them).")
@click.option("--recipe", help="A recipe by name or file. Default: the adapter's miniature, which needs no other file.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe, as a.b=value."
)
@click.option("--output", type=click.Path(path_type=Path), help="The run's folder. Default: a new one in ./runs.")
@click.option("--resume", is_flag=True, help="Go on from the latest checkpoint of --output, or of the newest run.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool, **options: Any) -> None:
    """Tune CLIP's text encoder for composed queries, on text triplets alone.

    \b
    Examples:
      rtd-plugin train --adapter lincir
      rtd-plugin train --recipe my.yaml --set batch_size=64 --output runs/mine
      torchrun --nproc-per-node 4 -m rtd_plugin train --recipe my.yaml
    """
    from rtd_plugin.engine.allocator import use_huge_pages

    use_huge_pages()
    from rtd_plugin.workflows.train import train_run  # brings torch along, which `--help` does not wait for

    result = train_run(**options)
    if result is None:
        return
    if as_json:
        print_json(result)
    else:
        _show(result)


def _show(result: dict[str, Any]) -> None:
    console = out()
    if result["evaluation"] is not None:
        for table in comparison_tables(result["evaluation"]):
            console.print(table)
    run = result["run"]
    in_python = f"import rtd_plugin; rtd_plugin.load_text_encoder({json.dumps(run, ensure_ascii=False)})"
    lines = (
        f"Wrote {result['text_encoder']} (step {result['step']}).",
        "",
        "Next:",
        f"  rtd-plugin patch path/to/your/code --weights {quote(run)}",
        f"  rtd-plugin export {quote(run)} --layout huggingface text_encoder",
        f"  python -c {quote(in_python)}",
    )
    console.print("\n".join(lines), soft_wrap=True)
