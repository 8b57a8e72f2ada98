"""Tuned text encoders on the Hugging Face Hub: `hf://USER/NAME[@REVISION]` in place of a run's folder.

Files are kept in Hugging Face's own cache, which serves without a network (`HF_HUB_OFFLINE=1`, or when the Hub cannot
be reached).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rtd_plugin.errors import RTDError, UsageError, require_extra
from rtd_plugin.files import first_line
from rtd_plugin.printable import register_secret

# Weights in other libraries' formats, which no layout reads.
IGNORED = ["*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data", "*.tflite", "*.gguf"]
_ADDRESS = re.compile(r"hf:/{1,2}(?P<repository>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^@\s]+))?")

log = logging.getLogger(__name__)


def find_run(run: str | Path) -> Path:
    """Return the folder or file of a text encoder; one on the Hub is downloaded, unless it is in the cache.

    Args:
        run: a path, or `hf://USER/NAME[@REVISION]`; the revision is a branch, a tag or a commit.

    Raises:
        UsageError: the address is wrong.
        RTDError: there is no such repository or revision, or the Hub cannot be reached and the cache lacks it.
    """
    if not re.match(r"hf:/", str(run)):  # which `Path` makes of hf://
        return Path(run)
    address = _ADDRESS.fullmatch(str(run))
    if address is None:
        raise UsageError(f"{run}: expected hf://USER/NAME or hf://USER/NAME@REVISION")
    repository, revision = address["repository"], address["revision"]
    with require_extra("hub", "a text encoder on the Hub"):
        from huggingface_hub import snapshot_download
    log.info("Looking for %s on the Hub.", repository)
    with name_failures(repository):
        return Path(snapshot_download(repository, revision=revision, ignore_patterns=IGNORED))


@contextmanager
def name_failures(repository: str) -> Iterator[None]:
    """Turn what fails on the Hub within the block into an RTDError, without the access token."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if token := get_token():
        register_secret(token)
    was_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    except GatedRepoError as error:
        raise RTDError(f"hf://{repository}: asks for your consent: visit its page on the Hub first") from error
    except RepositoryNotFoundError as error:
        hint = "check its name, and for a private one the token (`hf auth login`, or HF_TOKEN)"
        raise RTDError(f"hf://{repository}: no such repository, or not for you: {hint}") from error
    except RevisionNotFoundError as error:
        raise RTDError(f"hf://{repository}: no such revision") from error
    except LocalEntryNotFoundError as error:
        raise RTDError(f"hf://{repository}: not in the cache, and the Hub cannot be reached") from error
    except RTDError:
        raise
    except Exception as error:  # of the Hub, of one of its network libraries, or of a full disk
        raise RTDError(f"hf://{repository}: {first_line(error)}") from error
    finally:
        if not was_disabled:
            enable_progress_bars()
