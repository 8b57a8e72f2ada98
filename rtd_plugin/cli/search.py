"""`rtd-plugin search`."""

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from rtd_plugin.cli.console import out, print_json, progress
from rtd_plugin.cli.options import FILE, setup_options
from rtd_plugin.evaluation.labels import row_label


@click.command()
@click.argument("image", type=FILE)
@click.argument("condition")
@click.option("--images", type=FILE, required=True, help="The folder to search, with the folders in it.")
@click.option("--image-root", "image_roots", type=FILE, multiple=True, help="A folder that links in --images lead to.")
@setup_options
@click.option("--top", type=click.IntRange(1, 50), default=10, show_default=True, help="How many images to give.")
@click.option("--page", type=FILE, help="Write a page with pictures here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool, **options: Any) -> None:
    """Find the images of a folder that look like IMAGE, changed as CONDITION says.

    \b
    Example:
      rtd-plugin search shoe.jpg "is red and has no laces" --images catalogue --weights runs/mine --page found.html
    """
    result = _search(**options)
    if as_json:
        print_json(result)
        return
    tuned = sum(row["weights"] is not None for row in result["results"])
    table = Table("rank", *(row_label({**row, "query": "composed"}, tuned) for row in result["results"]))
    for rank in range(len(result["results"][0]["images"])):
        found = (row["images"][rank] for row in result["results"])
        table.add_row(str(rank + 1), *(f"{each['image']} ({each['score']:.3f})" for each in found))
    out().print(table)
    if result["page"]:
        out().print(f"Wrote {result['page']}.", soft_wrap=True)


def _search(
    image: Path,
    condition: str,
    images: Path,
    image_roots: tuple[Path, ...],
    top: int,
    page: Path | None,
    **setup: Any,
) -> dict[str, Any]:
    # These bring torch along, which `--help` does not wait for.
    from rtd_plugin.evaluation.comparison import compare
    from rtd_plugin.evaluation.retrieval import Retrieval
    from rtd_plugin.evaluation.search import Search
    from rtd_plugin.workflows.loading import load_setup

    asked = Search(data=images, image_roots=image_roots, reference=image, condition=condition)
    loaded = load_setup(**setup)
    with progress("Encoding images") as advance:
        retrieval = Retrieval(asked, loaded.adapter, loaded.images, loaded.projection, advance)
    results = []
    for row in compare(retrieval, loaded.tower, loaded.tuned, baselines=False).results:
        rankings = row.result.rankings
        best = zip(rankings.top[0].tolist()[:top], rankings.scores[0].tolist(), strict=False)
        found = [{"image": retrieval.names[place], "score": score} for place, score in best if place >= 0]
        results.append({"weights": str(row.weights) if row.weights else None, "name": row.name, "images": found})
    result = {
        "reference": str(image),
        "condition": condition,
        "gallery": len(retrieval.names),
        "page": str(page) if page else None,
        "results": results,
        **loaded.to_dict(),
    }
    if page is not None:
        _write_page(page, asked, result)
    return result


def _write_page(page: Path, asked: Any, result: dict[str, Any]) -> None:
    from rtd_plugin.evaluation.report import render, thumbnail
    from rtd_plugin.files import write_text

    tuned = sum(row["weights"] is not None for row in result["results"])
    rows = [
        {
            "label": row_label({**row, "query": "composed"}, tuned),
            "found": [
                {"picture": thumbnail(asked.image(found["image"]), found["image"]), "score": found["score"]}
                for found in row["images"]
            ],
        }
        for row in result["results"]
    ]
    name = asked.reference_name
    context = {
        "condition": asked.condition,
        "reference": thumbnail(asked.image(name), name),
        "folder": str(asked.data),
        "gallery": result["gallery"],
        "setup": result,
        "projection": Path(result["projection"]).name,
        "rows": rows,
    }
    write_text(page, render("search.html", context))
