"""Uploads a run to the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from rtd_plugin.clip.weight_files import FILE_NAME, find_weights
from rtd_plugin.errors import RTDError, UsageError, require_extra
from rtd_plugin.hub import name_failures
from rtd_plugin.regular_files import read_text, resolve_links
from rtd_plugin.training.recipe import read_recipe
from rtd_plugin.training.run import RECIPE_FILE
from rtd_plugin.workflows.model_card import CARD_FILE

METRICS_FILE = "metrics.jsonl"


def push(
    run: str | Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    with_projection: bool = False,
) -> dict[str, Any]:
    """Upload a finished run: its text encoder, recipe, metrics and model card, in one commit.

    The recipe names files without their folders, which are this machine's.

    Args:
        run: its folder.
        repository: `USER/NAME`; it is made if there is none.
        private: whether only you may see it.
        revision: a branch to commit to, which is made if there is none; None for `main`.
        with_projection: whether the projection is uploaded as well: then the run works by itself where its backbone
            has a name in open_clip.

    Returns:
        `repository`, `revision`, `commit`, `url`, `files`, the address `weights`, and `license`, what the card says.

    Raises:
        UsageError: the repository's name is wrong, or it is public although `private` was asked for.
        RTDError: the run is not finished, or the Hub refuses it.
    """
    folder = Path(run)
    if not (folder / RECIPE_FILE).is_file():
        raise UsageError(f"{run}: not a run's folder: it has no {RECIPE_FILE}")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UsageError(f"{repository}: expected USER/NAME")
    if find_weights(folder).name != FILE_NAME:
        raise RTDError(f"{run}: has no {FILE_NAME}: finish the run first")
    files: dict[str, Path | bytes] = {FILE_NAME: folder / FILE_NAME}
    files |= {name: folder / name for name in (CARD_FILE, METRICS_FILE) if (folder / name).is_file()}
    recipe, projections = shorten_recipe(folder)
    files[RECIPE_FILE] = recipe
    if with_projection:
        files |= {path.name: path for path in projections}
    with require_extra("hub", "`rtd-plugin push`"):
        from huggingface_hub import CommitOperationAdd, HfApi
    with name_failures(repository):
        api = HfApi(library_name="rtd-plugin")
        api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise UsageError(f"{repository}: is public already: make it private on the Hub, or choose another name")
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(name, content) for name, content in sorted(files.items())],
            commit_message=f"Upload {resolve_links(folder).name}",
            revision=revision,
        )
    return {
        "repository": repository,
        "revision": revision or "main",
        "commit": commit.oid,
        "url": f"{api.endpoint}/{repository}",
        "files": sorted(files),
        "weights": f"hf://{repository}@{commit.oid}",
        "license": _read_license(folder / CARD_FILE),
    }


def shorten_recipe(folder: Path) -> tuple[bytes, list[Path]]:
    """Return a run's recipe with names in place of paths, and the files of its projection."""
    recipe = read_recipe(folder / RECIPE_FILE)
    projection = recipe.projection
    files = list(projection.values()) if isinstance(projection, dict) else [projection]
    values = yaml.safe_dump(_shorten(recipe.to_dict()), sort_keys=False, allow_unicode=True)
    return values.encode(), files


def _shorten(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shorten(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_shorten(each) for each in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _read_license(card: Path) -> str | None:
    """Return the license in the head of a model card, None if it is not stated."""
    match = re.search(r"^license: *([\w.-]+)", read_text(card), re.M) if card.is_file() else None
    return match[1] if match and match[1] != "unknown" else None
