"""`rtd-plugin train`."""

import json
from collections.abc import Mapping
from typing import Any

import click

from rtd_plugin.cli.console import announce_loading, out, print_lines, progress, show
from rtd_plugin.cli.options import FILE, JSON
from rtd_plugin.cli.results import comparison_tables, search_table
from rtd_plugin.cli.shell import quote, quote_path
from rtd_plugin.errors import RTDError, require_extra


@click.command()
@click.option("--adapter", help="The method: lincir, … (`rtd-plugin adapters` lists them).")
@click.option("--recipe", help="A recipe, by name or file. Default: the adapter's miniature, which needs no files.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe, as a.b=value."
)
@click.option("--output", type=FILE, help="The run's folder. Default: a new one in ./runs.")
@click.option("--resume", is_flag=True, help="Resume from the latest checkpoint of --output, or of the newest run.")
@JSON
def command(as_json: bool, **options: Any) -> None:
    """Tune CLIP's text encoder for composed queries, on text triplets alone.

    \b
    Examples:
      rtd-plugin train --adapter lincir
      rtd-plugin train --recipe my.yaml --set batch_size=64 --output runs/mine
      rtd-plugin train --recipe my.yaml --set optimizer.learning_rate=auto
      torchrun --nproc-per-node 4 -m rtd_plugin train --recipe my.yaml
    """
    announce_loading()
    from rtd_plugin.workflows.huge_pages import use_huge_pages

    use_huge_pages()
    with require_extra("train", "training"):
        from rtd_plugin.workflows.train import InterruptedRun, train  # imports torch, which `--help` does not need

    try:
        result = train(**options, progress=progress)
    except InterruptedRun as error:
        again = f"rtd-plugin train --resume --output {quote_path(error.folder)}"
        raise RTDError(f"{error}: {again}") from error
    if result is not None:
        show(result.to_dict(), as_json, _show)


def _show(result: Mapping[str, Any]) -> None:
    if result["evaluation"] is not None:
        for table in comparison_tables(result["evaluation"]):
            out().print(table)
    if result["search"] is not None:
        out().print(search_table(result["search"]))
    run = result["run"]
    print_lines(f"Wrote {result['text_encoder']} (step {result['step']}).")
    if result["report"] is not None:
        print_lines(f"Wrote {result['report']}.")
    remarks = [f"{remark}." for remark in result["remarks"]]
    if result["warning"] is None and result["validation"] is not None:
        remarks = [f"{result['verdict']}.", *remarks]
    print_lines("", *remarks, *([""] if remarks else []))
    if result["warning"] is not None:
        print_lines(
            "No gain is shown: keep the pre-trained text encoder for now. What may help:",
            "  triplets without faults: rtd-plugin triplets check FILE",
            *(() if result["search"] else ("  a learning rate that fits: --set optimizer.learning_rate=auto",)),
            "  more triplets, or more steps: --set steps=…",
        )
        return
    in_python = f"import rtd_plugin; rtd_plugin.load_text_encoder({json.dumps(run, ensure_ascii=False)})"
    print_lines(
        "Next:",
        f"  rtd-plugin evaluate --benchmark cirr --data path/to/CIRR --weights {quote_path(run)}",
        f"  rtd-plugin patch path/to/your/code --weights {quote_path(run)}",
        f"  rtd-plugin export {quote_path(run)} --layout huggingface text_encoder",
        f"  python -c {quote(in_python)}",
    )
