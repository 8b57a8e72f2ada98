"""`rtd-plugin triplets paraphrase`."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from rtd_plugin.cli.console import print_lines, progress, show
from rtd_plugin.cli.options import COLUMNS, FILE, JSON
from rtd_plugin.cli.shell import quote_path
from rtd_plugin.generation.build_command import ATTEMPTS, ENDPOINT, LIMIT, MODEL, OUTPUT, REQUESTS, SEED, TIMEOUT
from rtd_plugin.printable import count_noun


@click.command("triplets paraphrase")
@click.argument("file", type=FILE)
@COLUMNS
@OUTPUT
@ENDPOINT
@MODEL
@click.option(
    "--wordings", default=3, show_default=True, type=click.IntRange(1, 20), help="Other wordings of each condition."
)
@LIMIT
@REQUESTS
@TIMEOUT
@ATTEMPTS
@SEED
@JSON
def command(file: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Write the conditions of FILE in other words, with a language model behind any OpenAI-compatible server.

    The output has the triplets of FILE and, after each, one with every new wording. A wording counts only if `triplets
    check` finds nothing wrong with it, it still names what the condition names, and it names nothing else. Keys, limits
    and interruptions: as in `triplets build llm`.

    \b
    Example:
      rtd-plugin triplets paraphrase triplets.jsonl --output wordings.jsonl \\
          --endpoint http://localhost:11434/v1 --model qwen2.5 --limit 5000
    """
    from rtd_plugin.generation.workflows import paraphrase_triplets  # imports torch, which `--help` does not need

    shown = partial(progress, shown=not as_json)
    show(paraphrase_triplets(file, output, progress=shown, **options), as_json, _show)


def _show(result: Mapping[str, Any]) -> None:
    output = Path(result["output"])
    print_lines(
        f"{result['done']:,} of {count_noun(result['triplets'], 'condition')} answered, "
        f"{count_noun(result['requests'], 'request')} sent; {count_noun(result['rubbish'], 'answer')} without "
        f"wordings, {count_noun(result['refused'], 'wording')} refused."
    )
    if result["left_out"]:
        print_lines(f"Left out {count_noun(result['left_out'], 'record')} with a problem (see `triplets check`).")
    if result["left"]:
        print_lines(
            f"The limit left {count_noun(result['left'], 'condition')} unanswered; run the command again to continue."
        )
    written = result["triplets"] + result["wordings"]
    print_lines(
        f"Wrote {count_noun(written, 'triplet')}, {result['wordings']:,} of them with a new wording, to {output}.",
        "",
        "Next:",
        f"  rtd-plugin triplets check {quote_path(output)}",
    )
