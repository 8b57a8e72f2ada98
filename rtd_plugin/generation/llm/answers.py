"""The file of answers that a server has given."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from rtd_plugin.errors import RTDError
from rtd_plugin.regular_files import read_text


class AnswerFile:
    """Questions with the rows of their answers, a line of JSON for each, appended as answers arrive.

    Args:
        path: the file; lines of an earlier build are read, broken ones are ignored.

    Raises:
        RTDError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers: dict[str, list[list[str]]] = {}
        try:
            is_cut_off = path.exists() and self._read()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
            if is_cut_off:  # the next answer would be lost with that line
                self._file.write("\n")
        except OSError as error:
            raise self._explain(error) from error

    def __enter__(self) -> "AnswerFile":
        return self

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a failed write was reported by `add`
            self._file.close()

    def __contains__(self, question: str) -> bool:
        return _hash_question(question) in self._answers

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, question: str) -> list[list[str]]:
        """Return the rows of a question's answer, such as conditions with targets; [] if it has no answer."""
        return self._answers.get(_hash_question(question), [])

    def add(self, question: str, rows: Sequence[Sequence[str]]) -> None:
        """Append the answer to a question.

        Raises:
            RTDError: the file cannot be written.
        """
        key = _hash_question(question)
        self._answers[key] = [list(row) for row in rows]
        try:
            self._file.write(json.dumps([key, self._answers[key]]) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._explain(error) from error

    def _read(self) -> bool:
        """Read the answers of an earlier build; return whether a crash cut off the last line."""
        content = read_text(self.path, errors="replace")
        for line in content.splitlines():
            try:
                key, rows = json.loads(line)
                self._answers[key] = [[str(text) for text in row] for row in rows]
            except (ValueError, TypeError, RecursionError):  # a line that a crash cut off
                continue
        return bool(content) and not content.endswith("\n")

    def _explain(self, error: OSError) -> RTDError:
        return RTDError(f"{self.path}: cannot be written ({error.strerror or error})")


def _hash_question(question: str) -> str:
    return hashlib.blake2b(question.encode(), digest_size=12).hexdigest()
