"""Sections that run one after another, each in a process and a box of time of its own.

What goes wrong in one costs no other: an exception is a line in the results, and so is a process
that dies or takes too long. A GPU that one section left unusable is fresh for the next.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.speed.results import Entry, Section, summary
from benchmarks.timing import write_atomically


class Report:
    """What a section says while it runs, a line of JSON each, to the process that started it.

    Parameters
    ----------
    stream : text file
        Read by :func:`run`.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.failed = False

    def environment(self, text: str) -> None:
        """Say on what it runs."""
        self._write({"environment": text})

    def add(self, entry: Entry) -> None:
        """Say what was measured."""
        self._write({"entry": entry.to_dict()})

    def require(self, entry: Entry) -> None:
        """Say what was measured and fail unless its target is reached."""
        self.add(entry)
        if entry.reached is False:
            raise AssertionError(f"is {entry.measured:.3g}, must be at most {entry.target:g}")

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        """Do a part of the section; its exceptions are reported and cost no other part."""
        print(f"{what} …", file=sys.stderr, flush=True)
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.failed = True
            self._write({"failure": f"{what}: {named(error)}"})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()


def named(error: BaseException) -> str:
    """Return the line of a traceback that names the exception, without what explains it further."""
    return traceback.format_exception_only(error)[-1].strip().splitlines()[0]


@dataclass(frozen=True)
class Box:
    """A section to run.

    Attributes
    ----------
    title, about : str
    command : sequence of str
        Writes a :class:`Report`'s lines to its standard output.
    seconds : float
        What it may take, besides what the boxes before it left over.
    """

    title: str
    about: str
    command: Sequence[str]
    seconds: float


@dataclass
class Outcome:
    """What is known of a section.

    Attributes
    ----------
    box : Box
    state : str
        ``"waiting"``, ``"running"``, or how it ended.
    took : float
        Seconds.
    environment : str
    failures : list of str
    entries : list of Entry
    """

    box: Box
    state: str = "waiting"
    took: float = 0.0
    environment: str = ""
    failures: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    def take(self, line: str) -> None:
        """Take a line of the section's report; the last may be cut off."""
        try:
            said = json.loads(line)
        except ValueError:
            self.failures.append(f"said what is no line of a report: {line.strip()[:80]}")
            return
        if "entry" in said:
            self.entries.append(Entry.of(said["entry"]))
        elif "failure" in said:
            self.failures.append(said["failure"])
        else:
            self.environment = said["environment"]

    def section(self) -> Section:
        """Return what was measured, as pages of benchmarks show it."""
        return Section(self.box.title, self.box.about, list(self.entries))

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings."""
        return {
            "state": self.state,
            "took": self.took,
            "environment": self.environment,
            "failures": list(self.failures),
            **self.section().to_dict(),
        }


class Book:
    """The results so far, in a JSON file and a page of Markdown, whole at any time.

    Parameters
    ----------
    folder : Path
        Gets ``gpu.json`` and ``gpu.md``.
    about : str
        Stands above.
    boxes : mapping of str to Box
    """

    def __init__(self, folder: Path, about: str, boxes: Mapping[str, Box]) -> None:
        self.outcomes = {name: Outcome(box) for name, box in boxes.items()}
        self._folder, self._about = folder, about
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def write(self) -> None:
        """Write both files."""
        found = {name: outcome.to_dict() for name, outcome in self.outcomes.items()}
        text = json.dumps({"about": self._about, "sections": found}, indent=1)
        with self._lock:
            write_atomically(self._folder / "gpu.json", text + "\n")
            write_atomically(self._folder / "gpu.md", self._page() + "\n")

    def _page(self) -> str:
        outcomes = self.outcomes.values()
        states = [f"- {each.box.title}: {each.state}" for each in outcomes]
        page = [self._about, "\n".join(states), summary([each.section() for each in outcomes])]
        for each in outcomes:
            page.append(f"## {each.box.title}\n\n{each.state}. {each.environment}")
            if each.failures:
                page.append("\n".join(f"- **failed**: {line}" for line in each.failures))
            page += each.section().to_markdown()
        return "\n\n".join(part for part in page if part)


def run(boxes: Mapping[str, Box], folder: Path, about: str) -> bool:
    """Run all sections, write what they say as they say it, and return whether all went well.

    Parameters
    ----------
    boxes : mapping of str to Box
    folder : Path
        See :class:`Book`.
    about : str
        Stands above the results.
    """
    book = Book(folder, about, boxes)
    deadline = time.monotonic()
    for name, box in boxes.items():
        # What a section does not need is left to those after it.
        deadline += box.seconds
        _run(book, book.outcomes[name], max(deadline - time.monotonic(), 1.0))
    return all(each.state == "done" for each in book.outcomes.values())


def _run(book: Book, outcome: Outcome, seconds: float) -> None:
    begin = time.monotonic()
    outcome.state = "running"
    book.write()
    last: deque[str] = deque(maxlen=1)

    def listen(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            outcome.take(line)
            book.write()

    def pass_on(process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            if line.strip():
                last.append(line.strip())

    readers: list[threading.Thread] = []
    try:
        with _started(outcome.box.command) as process:
            for each in (listen, pass_on):
                readers.append(threading.Thread(target=each, args=(process,), daemon=True))
                readers[-1].start()
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                outcome.state = f"out of time after {seconds:.0f} s"
    finally:
        for reader in readers:
            # One that a request to end has found before it started cannot be waited for.
            if reader.ident is not None:
                reader.join(5)
        outcome.took = time.monotonic() - begin
    if outcome.state == "running":
        if process.returncode and not outcome.failures:
            said = last[0] if last else "nothing was said"
            outcome.failures.append(f"exit code {process.returncode}: {said}")
        outcome.state = "failed" if outcome.failures else "done"
    book.write()
    print(
        f"{outcome.box.title}: {outcome.state}, {outcome.took:.0f} s", file=sys.stderr, flush=True
    )


@contextmanager
def _started(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a process, and end it with all that it started, as a compiler's workers are."""
    # A request to end that comes while the process starts must find it.
    requests: list[int] = []
    handler = signal.signal(signal.SIGTERM, lambda number, _: requests.append(number))
    process = None
    try:
        try:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        finally:
            signal.signal(signal.SIGTERM, handler)
        for number in requests:
            signal.raise_signal(number)
        yield process
    finally:
        if process is not None:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
