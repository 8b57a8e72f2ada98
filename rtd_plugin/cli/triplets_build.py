"""`rtd-plugin triplets build`."""

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from rtd_plugin.cli.console import out, print_json, progress

CAPTIONS = click.argument("captions", type=click.Path(path_type=Path))
OUTPUT = click.option("--output", type=click.Path(path_type=Path), required=True, help="The file to write: JSON lines.")
COLUMN = click.option("--column", help="The column or key with the captions, in CSV, Parquet or JSON lines.")
SEED = click.option("--seed", default=0, show_default=True, help="Of all choices.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def command() -> None:
    """Make text triplets of captions.

    CAPTIONS is a text file with a caption a line (or image#number, a tab and a caption, as Flickr8k has them: captions
    of one image tell which words name one thing); with --column, CSV, Parquet or JSON lines.

    \b
    Example:
      rtd-plugin triplets build rules captions.txt --output triplets.jsonl
    """


@command.command()
@CAPTIONS
@OUTPUT
@COLUMN
@click.option(
    "--per-caption", default=5, show_default=True, type=click.IntRange(1), help="Triplets of one caption, at most."
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes. Default: one for each processor. Triplets do not depend on it.",
)
@click.option("--backbone", metavar="MODEL", help="Judge similarity in this open_clip model's text space.")
@click.option("--pretrained", metavar="TAG", help="open_clip's tag of its weights.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Its weights on this machine instead.")
@SEED
@JSON
def rules(
    captions: Path,
    output: Path,
    column: str | None,
    per_caption: int,
    workers: int | None,
    backbone: str | None,
    pretrained: str | None,
    checkpoint: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Make triplets by rule, without a language model: English captions only.

    What a caption's phrases are replaced by comes from the captions themselves: something of the same kind, seen in the
    same company, similar but not the same. Without --backbone, the company that words keep says what is similar. A
    build that was stopped goes on where it was when it is started again.

    \b
    Examples:
      rtd-plugin triplets build rules captions.txt --output triplets.jsonl
      rtd-plugin triplets build rules products.csv --column title --output triplets.jsonl --workers 8
      rtd-plugin triplets build rules captions.txt --output triplets.jsonl --backbone ViT-L-14 --pretrained openai
    """
    # These bring torch along, which `--help` does not wait for.
    from rtd_plugin.generation.rules.build import build
    from rtd_plugin.triplets.parallel import count_processors

    embed, name = None, ""
    if backbone or checkpoint:
        from rtd_plugin.clip.backbones import Backbone
        from rtd_plugin.generation.similarity import embedding

        model = Backbone(backbone, pretrained, checkpoint)
        embed, name = embedding(model), f"{model.name} {checkpoint or ''}"
    with progress("Building", shown=not as_json) as advance:
        built = build(
            captions,
            output,
            column=column,
            per_caption=per_caption,
            seed=seed,
            workers=workers or count_processors(),
            embed=embed,
            backbone=name,
            progress=advance,
        )
    result = {
        "output": str(output),
        "captions": built.captions,
        "skipped": built.skipped,
        "triplets": built.triplets,
        "edits": dict(sorted(built.kinds.items())),
        "similarity": {"low": built.band[0], "high": built.band[1]},
    }
    if as_json:
        print_json(result)
        return
    table = Table("edit", title=f"{built.triplets:,} triplets of {built.captions:,} captions", title_justify="left")
    table.add_column("triplets with it", justify="right")
    for kind, number in sorted(built.kinds.items(), key=lambda item: -item[1]):
        table.add_row(kind, f"{number:,}")
    out().print(table)
    if built.skipped:
        out().print(f"Skipped {built.skipped:,} captions, the first at {built.first_fault}.", soft_wrap=True)
    _finish(output, built.triplets)


@command.command()
@CAPTIONS
@OUTPUT
@COLUMN
@click.option("--endpoint", required=True, metavar="URL", help="The server, such as http://localhost:8000/v1.")
@click.option("--model", required=True, metavar="NAME", help="The model's name on the server.")
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(1), help="Requests to send, at most.")
@click.option("--per-caption", default=2, show_default=True, type=click.IntRange(1, 20), help="Triplets to ask for.")
@click.option("--workers", default=4, show_default=True, type=click.IntRange(1, 256), help="Requests at once.")
@click.option("--timeout", default=120.0, show_default=True, type=click.FloatRange(0.1), help="Seconds for an answer.")
@click.option("--attempts", default=6, show_default=True, type=click.IntRange(1), help="Times that a request is sent.")
@SEED
@JSON
def llm(
    captions: Path,
    output: Path,
    endpoint: str,
    model: str,
    timeout: float,
    attempts: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Make triplets with a language model behind any OpenAI-compatible server: vLLM, llama.cpp, Ollama and others.

    A key, if the server wants one, is taken from the environment: RTD_PLUGIN_API_KEY, or OPENAI_API_KEY. No more than
    --limit requests are sent, retries included; the same command again goes on with the captions that are left, as it
    does after any interruption.

    \b
    Example:
      rtd-plugin triplets build llm captions.txt --output triplets.jsonl \\
          --endpoint http://localhost:11434/v1 --model qwen2.5 --limit 5000
    """
    from rtd_plugin.generation.llm import Server, build  # brings torch along

    server = Server(endpoint, model, timeout, attempts)
    with progress("Asking", shown=not as_json) as advance:
        sent = build(captions, output, server, progress=advance, **options)
    if as_json:
        print_json({"output": str(output), **vars(sent)})
        return
    out().print(
        f"{sent.done:,} of {sent.captions:,} captions answered, {sent.requests:,} requests now; "
        f"{sent.rubbish:,} answers were no triplets, {sent.refused:,} triplets were refused.",
        soft_wrap=True,
    )
    if sent.unusable:
        out().print(f"Skipped {sent.unusable:,} captions that are no text.")
    if sent.left:
        out().print(f"{sent.left:,} captions are left: the limit is reached. The same command goes on with them.")
    _finish(output, sent.triplets)


def _finish(output: Path, triplets: int) -> None:
    lines = (
        f"Wrote {triplets:,} triplets to {output}.",
        "",
        "Next:",
        f"  rtd-plugin triplets check {output}",
        f"  rtd-plugin triplets stats {output}",
    )
    out().print("\n".join(lines), soft_wrap=True)
