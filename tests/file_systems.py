"""File systems that are not to be relied on."""

from __future__ import annotations

import errno
import os
import random

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Named(MemoryFileSystem):
    """A memory of another name."""

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix(f"{cls.protocol}://"))


class Unsteady(Named):
    """Fails one request in five, some writes after they were done; ``halves``: or half done.

    As with every file system of fsspec, what fails does not exist.
    """

    protocol = "unsteady"
    # The other memory's are shared by all classes.
    store: dict = {}  # noqa: RUF012
    pseudo_dirs: list = [""]  # noqa: RUF012
    cachable = True

    generator = random.Random(0)
    halves = False
    fails = 0
    """Requests that failed."""

    @classmethod
    def fresh(cls, *, halves: bool) -> None:
        """Forget all files; fail again from the beginning."""
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.generator, cls.halves, cls.fails = random.Random(0), halves, 0

    def failure(self) -> Exception | None:
        if type(self).generator.random() >= 0.2:
            return None
        type(self).fails += 1
        kinds = (OSError(errno.EIO, "lost"), TimeoutError("late"), RuntimeError("busy"))
        return type(self).generator.choice(kinds)

    def request(self) -> None:
        failure = self.failure()
        if failure is not None:
            raise failure

    def exists(self, path, **kwargs):
        return self.failure() is None and super().exists(path, **kwargs)

    def cat_file(self, path, start=None, end=None, **kwargs):
        self.request()
        return super().cat_file(path, start, end, **kwargs)

    def makedirs(self, path, exist_ok=False):
        self.request()
        super().makedirs(path, exist_ok=exist_ok)

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        path = self._strip_protocol(path)
        failure = self.failure()
        written = len(value)
        if failure is not None:
            written = type(self).generator.choice((0, len(value) // 2 * self.halves, len(value)))
        if failure is None or written:
            if mode == "create" and path in self.store:
                raise FileExistsError(path)
            super().pipe_file(path, value[:written])
        if failure is not None:
            raise failure


class Unconditional(Unsteady):
    """Has no way of its own to write only where nothing is."""

    protocol = "unconditional"
    store: dict = {}  # noqa: RUF012
    pseudo_dirs: list = [""]  # noqa: RUF012

    def pipe_file(self, path, value, **kwargs):
        super().pipe_file(path, value)


class Refusing(Named):
    """Is full, or read-only, after so many writes."""

    protocol = "refusing"
    store: dict = {}  # noqa: RUF012
    pseudo_dirs: list = [""]  # noqa: RUF012
    code = errno.ENOSPC
    left = 0

    def _open(self, path, mode="rb", **kwargs):
        if mode != "rb":
            if type(self).left == 0:
                raise OSError(self.code, os.strerror(self.code))
            type(self).left -= 1
        return super()._open(path, mode, **kwargs)


for kind in (Unsteady, Unconditional, Refusing):
    fsspec.register_implementation(kind.protocol, kind, clobber=True)
