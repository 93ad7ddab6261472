"""Files that are there whole or not at all, and that show whether they are what was written.

A file is sealed with a checksum of all of it, in the file itself: as the last line of a binary
file, as an entry of a JSON object. So a single write is enough, and a single read tells.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import inspect
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar
from uuid import uuid4

import fsspec
from fsspec.spec import AbstractFileSystem

Value = TypeVar("Value")

Buffer = bytes | memoryview

_SEAL = "sha256"

_LINE = re.compile(rb"\nsha256 ([0-9a-f]{64})\n")
_LINE_LENGTH = len("\nsha256 \n") + 64

_PARTIAL = re.compile(r".+\.[0-9a-f]{32}\.partial")

WAITS = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Seconds between the attempts at a request that fails."""

_ANSWERS = (
    *(FileNotFoundError, FileExistsError, PermissionError),
    *(IsADirectoryError, NotADirectoryError),
)
"""Errors that say what is the case: asking again would change nothing."""

_ANSWER_CODES = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EROFS", "EFBIG", "EDQUOT", "ENAMETOOLONG")
    if hasattr(errno, name)
)
"""The same among errors without a class of their own."""


class DamagedError(ValueError):
    """A file does not hold what was written to it."""


class OtherFormatError(ValueError):
    """A file was written by another version of this package."""


def seal(file: io.BytesIO) -> None:
    """Write the checksum of all that a file holds as its last line; archives can still be opened.

    Examples
    --------
    >>> import io
    >>> from quantus_ext.files import seal, unsealed
    >>> file = io.BytesIO(b"content")
    >>> seal(file)
    >>> unsealed(file.getvalue())
    b'content'
    """
    with file.getbuffer() as content:
        digest = hashlib.sha256(content).hexdigest()
    file.seek(0, io.SEEK_END)
    file.write(f"\n{_SEAL} {digest}\n".encode())


def unsealed(data: bytes) -> bytes:
    """Return what was sealed.

    Raises
    ------
    DamagedError
        If it is not what was written.
    """
    content, line = data[:-_LINE_LENGTH], _LINE.fullmatch(data[-_LINE_LENGTH:])
    if line is None:
        raise DamagedError(
            "it does not end with its checksum: it is cut off, or of an earlier version"
        )
    if hashlib.sha256(content).hexdigest().encode() != line[1]:
        raise DamagedError("its content does not have the checksum that is written in it")
    return content


def digest_of(content: object) -> str:
    """Return a hexadecimal SHA-256 of what JSON keeps of the content, however it is laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sealed_json(content: Mapping[str, Any], *, indent: int | None = None, nan: bool = True) -> str:
    """Return the content as JSON that holds its checksum, in place of any that it had.

    Parameters
    ----------
    content : mapping of str
        What JSON can hold; one of its keys is ``"format"``.
    indent : int, optional
    nan : bool, default True
        Whether NaN and infinity may be written, which not all readers of JSON know.
    """
    # As it will be read back.
    plain = json.loads(json.dumps(content, allow_nan=nan))
    plain.pop(_SEAL, None)
    return json.dumps({**plain, _SEAL: digest_of(plain)}, indent=indent)


def unsealed_json(text: str | bytes, *, format: int) -> dict[str, Any]:  # noqa: A002 - its key
    """Return the content of sealed JSON, which may have been laid out anew.

    Raises
    ------
    OtherFormatError
        If it has another format than the one asked for, or is JSON of something else.
    DamagedError
        If it is not what was written.
    """
    try:
        content = json.loads(text)
        seal = content.pop(_SEAL, None) if isinstance(content, dict) else None
        digest = digest_of(content)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"it is no JSON: {error}") from error
    found = content.get("format") if isinstance(content, dict) else None
    # The first formats had no checksum.
    if seal != digest and (seal is not None or found == format):
        raise DamagedError("its content does not have the checksum that is written in it")
    if found != format:
        raise OtherFormatError(f"has format {found!r}, this version of quantus_ext reads {format}")
    sealed: dict[str, Any] = content
    return sealed


def aside(name: str, content: bytes) -> str:
    """Return the name under which the content of a damaged file is kept."""
    return f"{name}.{hashlib.sha256(content).hexdigest()[:12]}.damaged"


def write_text(path: str | Path, text: str) -> Path:
    """Write a file in place of the one that is there, all of it at once."""
    target = Path(path)
    remove_partial(target.parent, target.name)
    write_bytes(target, text.encode("utf-8"))
    return target


def write_bytes(path: Path, content: Buffer, *, exclusive: bool = False) -> None:
    """Write a file, all of it at once.

    Parameters
    ----------
    path : Path
    content : bytes-like
    exclusive : bool, default False
        Only where there is none.

    Raises
    ------
    FileExistsError
        If it is exclusive and there is one.
    """
    try:
        _write(path, content, exclusive=exclusive)
    except FileNotFoundError:
        # Before it was locked, another process may have removed it as a leftover.
        _write(path, content, exclusive=exclusive)


def _write(path: Path, content: Buffer, *, exclusive: bool) -> None:
    begun = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        with begun.open("xb") as file:
            _locked(file)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if not exclusive:
            begun.replace(path)
            return
        try:
            os.link(begun, path)
        except FileExistsError:
            raise
        except OSError:
            # A file system without links: one that finds it half written reads it again.
            with path.open("xb") as file:
                file.write(content)
    finally:
        # On a file system that has become read-only the first error is the one to be told.
        with suppress(OSError):
            begun.unlink(missing_ok=True)


def remove_partial(folder: Path, name: str = "") -> None:
    """Remove what writers that were killed have left, and nothing that is being written.

    Parameters
    ----------
    folder : Path
    name : str, optional
        Of the one file whose partial ones are meant.
    """
    for begun in folder.glob(f"{glob.escape(name)}*.partial"):
        if not _PARTIAL.fullmatch(begun.name):
            continue
        # It may be gone by now, or belong to another process.
        with suppress(OSError):
            with begun.open("r+b") as file:
                unused = _locked(file)
            if unused:
                begun.unlink()


def _locked(file: IO[bytes]) -> bool:
    """Lock a file until it is closed, unless it is locked or cannot be."""
    if sys.platform == "win32":
        # What is open cannot be removed there.
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class Folder:
    """Files in a folder, or at any address that fsspec knows.

    A request that fails is repeated, and then raised: it never counts as an answer.

    Parameters
    ----------
    address : str
    """

    def __init__(self, address: str) -> None:
        fs, root = fsspec.core.url_to_fs(address)
        self._fs, self._root = fs, root.rstrip("/")
        self._is_local = "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)

    def make(self, name: str) -> None:
        """Make a folder in it, and itself, unless they are there."""
        _repeated(lambda: self._fs.makedirs(self.path(name), exist_ok=True))

    def tidy(self, name: str = "") -> None:
        """Remove what killed writers have left in it, or in a folder in it."""
        if self._is_local:
            remove_partial(Path(self.path(name)))

    def path(self, name: str) -> str:
        """Return the path of a file."""
        return f"{self._root}/{name}"

    def read(self, name: str) -> bytes | None:
        """Return what a file holds; None only where the file system says that there is none."""
        return _repeated(lambda: self._read(name))

    def read_later(self, name: str) -> bytes | None:
        """Return what a file holds in a moment: it may be half written now."""
        time.sleep(WAITS[1])
        return self.read(name)

    def write(self, name: str, content: bytes) -> None:
        """Write a file in place of the one that is there.

        All of it at once in a local folder and in an object store; elsewhere what was cut off is
        found out when it is read.
        """
        path = self.path(name)
        if self._is_local:
            # The folder may have been removed, to compute everything again.
            Path(path).parent.mkdir(exist_ok=True)
            _repeated(lambda: write_bytes(Path(path), content))
        else:
            _repeated(lambda: self._fs.pipe_file(path, content))

    def create(self, name: str, content: bytes) -> None:
        """Write a file unless there is one, as far as the file system can tell in one request."""
        with suppress(FileExistsError):
            _repeated(lambda: self._create(name, content))
        if not self._is_local:
            # If it checks before it writes, another process may write in between.
            time.sleep(WAITS[0])

    def _read(self, name: str) -> bytes | None:
        try:
            content: bytes = self._fs.cat_file(self.path(name))
        except FileNotFoundError:
            return None
        return content

    def _create(self, name: str, content: bytes) -> None:
        # An attempt that seemed to fail may have created it.
        if self._read(name) is not None:
            raise FileExistsError(self.path(name))
        path = self.path(name)
        if self._is_local:
            write_bytes(Path(path), content, exclusive=True)
            return
        try:
            if _creates(self._fs):
                self._fs.pipe_file(path, content, mode="create")
            else:
                with self._fs.open(path, "xb") as file:
                    file.write(content)
        except Exception as error:
            # Some object stores answer like this if they do not support conditions.
            unknown = isinstance(error, (NotImplementedError, ValueError))
            if not unknown and "not implemented" not in str(error):
                raise
            self._fs.pipe_file(path, content)


def _creates(fs: AbstractFileSystem) -> bool:
    """Whether ``pipe_file`` of a file system can write only where nothing is, in one request.

    That of fsspec itself looks first, and takes any error for a no.
    """
    own = getattr(type(fs), "_pipe_file", type(fs).pipe_file)
    return own is not AbstractFileSystem.pipe_file and "mode" in inspect.signature(own).parameters


def _repeated(request: Callable[[], Value]) -> Value:
    """Return what a request returns, which is repeated where it fails.

    Raises
    ------
    OSError
        If it goes on failing, whatever kind of error the file system raises.
    """
    for wait in (*WAITS, None):
        try:
            return request()
        except _ANSWERS:
            raise
        except Exception as error:
            code = getattr(error, "errno", None)
            if wait is None or code in _ANSWER_CODES:
                if isinstance(error, OSError):
                    raise
                raise OSError(code, f"{type(error).__name__}: {error}") from error
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")
