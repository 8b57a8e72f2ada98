"""`rtd-plugin triplets build`."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
from rich.table import Table

from rtd_plugin.cli.console import out, print_json, print_lines, progress
from rtd_plugin.cli.options import FILE, JSON, RAY
from rtd_plugin.cli.shell import quote_path
from rtd_plugin.printable import count_noun

SHOWN = 20  # nouns without a partner
CAPTIONS = click.argument("captions", type=FILE)
OUTPUT = click.option("--output", type=FILE, required=True, help="The JSON lines file to write.")
COLUMN = click.option("--column", help="The column or key with the captions; its number in a table without header.")
SEED = click.option("--seed", default=0, show_default=True, help="Random seed.")
ENDPOINT = click.option(
    "--endpoint", required=True, metavar="URL", help="The server, such as http://localhost:8000/v1."
)
MODEL = click.option("--model", required=True, metavar="NAME", help="The model's name on the server.")
LIMIT = click.option(
    "--limit", default=1000, show_default=True, type=click.IntRange(1), help="Maximum number of requests."
)
REQUESTS = click.option(
    "--workers", default=4, show_default=True, type=click.IntRange(1, 256), help="Concurrent requests."
)
TIMEOUT = click.option(
    "--timeout", default=120.0, show_default=True, type=click.FloatRange(0.1), help="Seconds to wait for an answer."
)
ATTEMPTS = click.option(
    "--attempts",
    default=6,
    show_default=True,
    type=click.IntRange(1),
    help="Attempts before a request counts as failed.",
)


@click.group("triplets build")
def command() -> None:
    """Build text triplets from captions.

    CAPTIONS is a text file with a caption per line; a table (tabs, commas, semicolons or bars; Parquet); or JSON,
    including COCO's. The column with the captions is recognised by its name or content, unless --column names it. A
    column with names of images, as in Flickr8k, is used too: captions of one image show which words are synonyms.

    \b
    Example:
      rtd-plugin triplets build rules captions.txt --output triplets.jsonl
    """


@command.command()
@CAPTIONS
@OUTPUT
@COLUMN
@click.option(
    "--per-caption", default=5, show_default=True, type=click.IntRange(1), help="Requests per caption, at most."
)
@click.option(
    "--wordings",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Wordings of each request, at most: triplets with the same captions, for wording.sample.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes; they do not change the result. Default: one per processor.",
)
@RAY
@click.option(
    "--register",
    type=click.Choice(["mixed", "requests", "statements"]),
    default="mixed",
    show_default=True,
    help="How conditions are written: requests as in CIRR, statements (is …, has …) as in FashionIQ.",
)
@click.option("--backbone", metavar="MODEL", help="Measure similarity in the text space of this open_clip model.")
@click.option("--pretrained", metavar="TAG", help="The open_clip tag of its weights.")
@click.option("--checkpoint", type=FILE, help="A local file with its weights, instead of --pretrained.")
@SEED
@JSON
def rules(**options: Any) -> None:
    """Build triplets by rules, without a language model: English captions only.

    Phrases of a caption are replaced by others from the captions: of the same kind, in the same contexts, similar but
    not the same. Without --backbone, similarity is measured by the contexts of words. A build that was stopped resumes
    when the command is run again.

    \b
    Examples:
      rtd-plugin triplets build rules captions.txt --output triplets.jsonl
      rtd-plugin triplets build rules products.csv --column name --output triplets.jsonl --workers 8
      rtd-plugin triplets build rules captions.txt --output triplets.jsonl --backbone ViT-L-14 --pretrained openai
    """
    _build("rules", **options)


@command.command()
@CAPTIONS
@OUTPUT
@COLUMN
@ENDPOINT
@MODEL
@LIMIT
@click.option("--per-caption", default=2, show_default=True, type=click.IntRange(1, 20), help="Triplets per request.")
@REQUESTS
@TIMEOUT
@ATTEMPTS
@SEED
@JSON
def llm(**options: Any) -> None:
    """Build triplets with a language model behind any OpenAI-compatible server: vLLM, llama.cpp, Ollama and others.

    A key, if the server needs one, is read from the environment: RTD_PLUGIN_API_KEY, or OPENAI_API_KEY. At most --limit
    requests are sent, retries included. Run the same command again to continue with the remaining captions, also after
    an interruption.

    \b
    Example:
      rtd-plugin triplets build llm captions.txt --output triplets.jsonl \\
          --endpoint http://localhost:11434/v1 --model qwen2.5 --limit 5000
    """
    _build("llm", **options)


def _build(method: Literal["rules", "llm"], captions: Path, output: Path, as_json: bool, **options: Any) -> None:
    from rtd_plugin.generation.workflows import build_triplets  # imports torch, which `--help` does not need

    result = build_triplets(captions, output, method, progress=partial(progress, shown=not as_json), **options)
    if as_json:
        print_json(result)
        return
    {"rules": _show_rules, "llm": _show_answers}[method](result)
    print_lines(
        f"Wrote {count_noun(result['triplets'], 'triplet')} to {output}.",
        "",
        "Next:",
        f"  rtd-plugin triplets check {quote_path(output)}",
        f"  rtd-plugin triplets stats {quote_path(output)}",
    )
    if options.get("wordings", 1) > 1:
        print_lines("  rtd-plugin train --recipe … --set wording.sample=true --set wording.consistency=1")


def _show_rules(result: Mapping[str, Any]) -> None:
    title = f"{count_noun(result['triplets'], 'triplet')} of {count_noun(result['captions'], 'caption')}"
    table = Table("edit", title=title, title_justify="left")
    for heading in ("triplets with it", "share", "target"):
        table.add_column(heading, justify="right")
    for kind, target in result["target_percent"].items():
        count, share = result["edits"].get(kind, 0), result["share_percent"][kind]
        table.add_row(kind, f"{count:,}", f"{share} %", f"{target} %")
    out().print(table)
    if lonely := result["without_partner"]:
        more = f" and {len(lonely) - SHOWN:,} others" if len(lonely) > SHOWN else ""
        print_lines(f"Found no substitutes for these nouns: {', '.join(lonely[:SHOWN])}{more}.")
    if result["skipped"]:
        print_lines(f"Skipped {count_noun(result['skipped'], 'caption')}, the first at {result['first_fault']}.")


def _show_answers(result: Mapping[str, Any]) -> None:
    print_lines(
        f"{result['done']:,} of {count_noun(result['captions'], 'caption')} answered, "
        f"{count_noun(result['requests'], 'request')} sent; {count_noun(result['rubbish'], 'answer')} without "
        f"triplets, {count_noun(result['refused'], 'triplet')} refused.",
    )
    if result["unusable"]:
        print_lines(f"Skipped {count_noun(result['unusable'], 'caption')} that cannot be read.")
    if result["left"]:
        print_lines(
            f"The limit left {count_noun(result['left'], 'caption')} unanswered; run the command again to continue."
        )
