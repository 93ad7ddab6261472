"""Runs command lines in forks of one process that has imported the package; writes their codes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from typing import Any

from quantus_ext.__main__ import main


def _set_up(case: dict[str, Any]) -> None:
    """Put what a shell would give in place of the standard streams."""
    out = os.open(case["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    err = os.open(case["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if case["stdout"] == "closed pipe":
        read, out = os.pipe()
        os.close(read)
    if case["stdout"] == "full":
        out = os.open("/dev/full", os.O_WRONLY)
    if case["stderr"] == "full":
        err = os.open("/dev/full", os.O_WRONLY)
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb"), encoding=case["encoding"])
    sys.stderr = io.TextIOWrapper(
        os.fdopen(2, "wb"), encoding=case["encoding"], errors="backslashreplace"
    )
    if case["stdout"] == "none":
        os.close(1)
        sys.stdout = None  # type: ignore[assignment]


def _ended(arguments: list[str]) -> int:
    """Return what a Python would end with that was started for a command line.

    To take one down takes seconds. What that does to an exit code is to write what is left in the
    standard streams, and to end with 120 where it cannot.
    """
    try:
        main(arguments)
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    left = [stream for stream in (sys.stdout, sys.stderr) if stream is not None]
    try:
        for stream in left:
            stream.flush()
    except OSError:
        return 120
    return code


if __name__ == "__main__":
    codes = {}
    with contextlib.redirect_stdout(io.StringIO()):
        # What is imported as it is needed is there for all.
        main(["evaluate", sys.argv[1]])
    for name, case in json.loads(sys.stdin.read()).items():
        child = os.fork()
        if child == 0:
            _set_up(case)
            os.chdir(case["folder"])
            if not case["to_the_end"]:
                os._exit(_ended(case["arguments"]))
            main(case["arguments"])
            break
        codes[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    else:
        sys.stdout.write(json.dumps(codes))
