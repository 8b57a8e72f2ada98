"""Counts what a patch did in a process and its children, for the line printed at the end.

Each process appends events to one file as they happen, so that a killed child is counted too. The launcher
makes the file; without a launcher, the first process that records an event makes it, for its children too.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import sys
from collections import Counter
from contextlib import suppress

TYPE_CHECKING = False  # every Python under a patch imports this module, and need not wait for typing
if TYPE_CHECKING:
    from collections.abc import Iterable

    Event = tuple[str, int, int, str]  # the event, the process, a count, and a note

VARIABLE = "RTD_PLUGIN_USAGE_LOG"

# The events: a Python started under the patch, imported a composition point, composed queries, called a composition
# point from training code, failed to compose, needed a shim; a shim found an error that the host hides.
STARTED, IMPORTED, COMPOSED, KEPT = "started", "imported", "composed", "kept"
FAILED, REPAIRED, HIDDEN = "failed", "repaired", "hidden"


class UsageLog:
    """What the patches of this process did.

    Attributes:
        path: the file that events go to; None until the first event.
        expected: root of the host whose patch is active, to be named if it was never used; None for no line at the end.
    """

    def __init__(self) -> None:
        self.path = os.environ.get(VARIABLE)
        self.expected: str | None = None
        self._inherited = self.path is not None
        self._owner = os.getpid()
        self._folder = ""
        with suppress(OSError):  # the current folder may have been removed
            self._folder = os.getcwd()
        self._hidden_error = False
        atexit.register(self._at_exit)  # registered first, so it runs last

    def add(self, event: str, count: int = 1, note: str = "") -> None:
        """Record an event; a full disk must not stop the host."""
        self._hidden_error |= event == HIDDEN
        with suppress(OSError):
            if self.path is None:
                self.path = create_file()
                os.environ[VARIABLE] = self.path
                self._owner = os.getpid()
            append(self.path, [(event, os.getpid(), count, note)])

    def _at_exit(self) -> None:
        if not self._inherited and self._owner == os.getpid():
            events = read_events(self.path) if self.path else []
            if self.path:
                os.environ.pop(VARIABLE, None)
                with suppress(OSError):
                    os.unlink(self.path)
            if self.expected is not None and (events or self._runs_file_of(self.expected)):
                line = summarise(events or [(STARTED, os.getpid(), 1, "")], self.expected)
                print(line, file=sys.stderr, flush=True)
        if self._hidden_error:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            os._exit(1)  # all other exit handlers have run

    def _runs_file_of(self, host: str) -> bool:
        """Whether this process ran a program of the host, which should have composed queries."""
        program = os.path.realpath(os.path.join(self._folder, sys.argv[0] if sys.argv else ""))
        return program.startswith(os.path.join(host, ""))


@functools.lru_cache(maxsize=1)
def get_usage_log() -> UsageLog:
    """Return the usage log of this process."""
    return UsageLog()


def create_file() -> str:
    """Create an empty file for events and return its path."""
    import tempfile  # not at the top: every Python under a patch imports this module

    handle, path = tempfile.mkstemp(prefix="rtd-plugin-", suffix=".jsonl")
    os.close(handle)
    return path


def append(path: str, events: Iterable[Event]) -> None:
    """Append events to a file with one write, because other processes append to it too."""
    lines = "".join(json.dumps(event) + "\n" for event in events)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, lines.encode())
    finally:
        os.close(handle)


def read_events(path: str) -> list[Event]:
    """Return the events in a file; an empty list if it cannot be read."""
    events: list[Event] = []
    with suppress(OSError, ValueError, TypeError, RecursionError), open(path, encoding="utf-8") as file:
        for line in file:
            event, process, count, note = json.loads(line)
            events.append((event, process, count, note))
    return events


def summarise(events: Iterable[Event] | None, host: str) -> str:
    """Return the line at the end of a process: a warning if no composed query used the tuned text encoder.

    Args:
        events: of the process and its children; None if their file is gone.
        host: root of the patched host.
    """
    from rtd_plugin.printable import make_message

    if events is None:
        return "rtd-plugin: warning: composed queries were not counted: the command removed the file that counts them"
    events = list(events)
    counts: Counter[str] = Counter()
    for event, _, count, _ in events:
        counts[event] += count
    notes = {event: _list_notes(events, event) for event in (FAILED, REPAIRED, HIDDEN)}
    processes = len({process for event, process, _, _ in events if event == COMPOSED})
    used = "used the tuned text encoder"
    if counts[COMPOSED]:
        queries = "query" if counts[COMPOSED] == 1 else "queries"
        line = f"{counts[COMPOSED]} composed {queries} {used}"
        line += f" in {processes} processes" if processes > 1 else ""
    else:
        line = f"warning: no composed query {used}"
    if notes[FAILED]:
        line += f"; failed: {'; '.join(notes[FAILED])}"
    elif counts[KEPT]:
        calls = "call" if counts[KEPT] == 1 else "calls"
        line += f"; {counts[KEPT]} {calls} from training code kept the pre-trained one"
    elif not counts[COMPOSED] and counts[IMPORTED]:
        line += f": a composition point of {host} was imported, but never called"
    elif not counts[COMPOSED] and events:
        line += f": no composition point of {host} was imported"
    elif not counts[COMPOSED]:
        line += ": no Python of the command activated the patch (one started with -I, -E or -S does not)"
    if notes[REPAIRED]:
        line += f"; repaired: {', '.join(notes[REPAIRED])}"
    if notes[HIDDEN]:
        line += f"; the host hid an error: {'; '.join(notes[HIDDEN])}"
    return make_message(f"rtd-plugin: {line}")


def _list_notes(events: Iterable[Event], name: str) -> list[str]:
    """Return the distinct notes of one event, each on one line, in order."""
    return list(dict.fromkeys(" ".join(note.split()) for event, _, _, note in events if event == name))
