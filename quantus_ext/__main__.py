"""Run ``python -m quantus_ext demo``, or ``evaluate CONFIG.toml`` in a pipeline."""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from matplotlib.backend_bases import FigureCanvasBase

from quantus_ext.plotting import save_figure

GOOD, BAD, NOT_DECIDED = 0, 1, 2
"""Exit codes: the verdict, and whatever leaves it open."""

EXAMPLE = """\
model = {call = "my_project.models:load"}        # the value that this function returns

[data]                                           # paths are relative to this file
x_batch = "x.npy"
y_batch = "y.npy"

[metrics.Deletion]                               # a class of quantus_ext or quantus
steps = 20

[xai_methods]
Saliency = {xai_lib = "captum"}                  # arguments of quantus.explain
mine = {import = "my_project.explainers:explain"}
maps = {file = "maps.npy"}

# Optional:
[explain_func_kwargs]                            # for functions of your own
[multiply_by_inputs]                             # do maps include the input?
maps = true
[call_kwargs]                                    # for the calls of the metrics
logits = {softmax = false}
[labels]                                         # what the report writes
class_names = ["cat", "dog"]
[run]                                            # arguments of quantus_ext.evaluate
n_jobs = 4
store = "store"                                  # to resume an interrupted run
[report]
html = "evaluation.html"
json = "evaluation.json"
[[thresholds]]                                   # for mean scores
metric = "Deletion"
explainer = "mine"
at_most = 0.2
[drift]                                          # compared with an earlier report
baseline = "baseline.json"
"""
"""A file for ``evaluate``, which its ``--help`` shows."""


def main(arguments: list[str] | None = None) -> None:
    """
    Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        What follows the program's name; read from the shell by default.

    Raises
    ------
    SystemExit
        With 1 where `evaluate` finds a threshold, a drift test or a score that fails; with 2 where
        nothing is decided: arguments, the file or what it names are wrong, the work is interrupted,
        or what is found cannot be written.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Escape characters that the terminal's encoding lacks.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = _not_decided("interrupted: nothing is kept, run it again")
    except OSError as error:
        _flushed(sys.stdout)
        code = _not_decided(f"the output cannot be written: {error}")
    _flushed(sys.stderr)
    if code != GOOD:
        raise SystemExit(code)


def _run(arguments: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m quantus_ext")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("demo", help="score explanations of a network that reads digits")
    command.add_argument("--out", type=_picture, default="quantus_ext_demo.png", help="the picture")
    command.add_argument("--n", type=int, default=100, help="digits to score (100)")
    command.add_argument(
        "--seed", type=_seed, default=0, help="of the training and the metrics (0)"
    )
    command = commands.add_parser(
        "evaluate",
        help="evaluate what a TOML file describes",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "exit codes: 0 all is well; 1 a score, threshold or drift check fails; 2 no verdict\n\n"
            f"An example of CONFIG.toml:\n\n{EXAMPLE}"
        ),
    )
    command.add_argument(
        "config", type=Path, metavar="CONFIG.toml", help="what to evaluate; an example is below"
    )
    command.add_argument("--dry-run", action="store_true", help="only estimate the cost")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as exit_:
        # 0 after --help.
        return GOOD if exit_.code in (None, 0) else NOT_DECIDED
    if options.command == "evaluate":
        return _evaluate(options.config, dry_run=options.dry_run)
    try:
        return _demo(options)
    except OSError:
        raise
    except Exception:
        # Uncaught, it would exit with 1, which is a verdict.
        return _not_decided(traceback.format_exc().rstrip())


def _evaluate(path: Path, *, dry_run: bool) -> int:
    # Imported here, because the demo does not need it.
    from quantus_ext.evaluation import WorkerError
    from quantus_ext.evaluation.config import Config, Outcome

    kept = "nothing is kept, run it again"
    try:
        config = Config(path)
        kept = config.kept
        outcome = config.run(dry_run=dry_run)
    except KeyboardInterrupt:
        return _not_decided(f"{path}: interrupted: {kept}")
    except SystemExit as exit_:
        return _not_decided(
            f"{path}: code that it names ends the program with sys.exit({exit_.code!r}), and "
            "nothing is decided: take that out"
        )
    except (OSError, TypeError, ValueError, ImportError, AttributeError, WorkerError) as error:
        return _not_decided(f"{path}: {type(error).__name__}: {error}")
    except BaseException:
        # Raised by code that the file names. Uncaught, it would exit with 1, which is a verdict.
        return _not_decided(f"{path}: {traceback.format_exc().rstrip()}")
    if not isinstance(outcome, Outcome):
        # It was printed when it was computed.
        return BAD if outcome.failures else GOOD
    print(outcome.evaluation.to_markdown())
    if outcome.drift is not None:
        print(outcome.drift_check, outcome.drift.to_markdown(), sep="\n\n", end="\n\n")
    for report in outcome.written:
        print(f"Written: {report}")
    for line in outcome.broken:
        print(f"FAILED: {line}")
    if outcome.unwritten:
        return _not_decided("\n".join(f"{path}: {line}" for line in outcome.unwritten))
    return BAD if outcome.broken else GOOD


def _demo(options: argparse.Namespace) -> int:
    try:
        # Imported here, because it needs the packages of the extra `demo`.
        from quantus_ext import demo
    except ModuleNotFoundError as error:
        if error.name not in {"captum", "mlxtend"}:
            raise
        extra = 'pip install "quantus_ext[demo]", or in a clone ".[demo]"'
        return _not_decided(f"The demo needs {error.name}: {extra}")
    if not 1 <= options.n <= demo.N_TEST:
        return _not_decided(f"argument --n: must be between 1 and {demo.N_TEST}; got {options.n}")

    problem = demo.prepare(options.seed)
    print(
        f"A network of 3 convolutions, trained on {len(problem.x_train):,} MNIST digits in "
        f"{problem.training_seconds:.1f} s, reads {problem.accuracy:.1%} of "
        f"{len(problem.x_test):,} others rightly."
    )
    evaluation = demo.score(problem, options.n)
    evaluations, seconds = evaluation.n_evaluations.sum(), evaluation.seconds.sum()
    print(
        f"{evaluations:,} evaluations, for which {evaluation.n_rows:,} rows were sent, in "
        f"{seconds:.1f} s. Means over {options.n} digits with {evaluation.confidence:.0%} "
        "intervals; rank 1 is best.\n"
    )
    print(demo.table(evaluation))
    save_figure(demo.draw(evaluation), options.out)
    print(f"\nPicture: {options.out}")
    return GOOD


def _not_decided(message: str) -> int:
    """Say on the stream for errors, where it can be said, that there is no verdict and why."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(message, file=sys.stderr)
    return NOT_DECIDED


def _flushed(stream: TextIO | None) -> None:
    """Flush a stream, or let what it cannot write go: Python would try again as it ends."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)


def _seed(text: str) -> int:
    from quantus_ext import checks

    try:
        return checks.fixed_seed("seed", int(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _picture(text: str) -> Path:
    """Refuse at once what could not be written after a minute's work."""
    path = Path(text)
    formats = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.removeprefix(".").lower() not in formats:
        raise argparse.ArgumentTypeError(f"{text} must end in one of .{', .'.join(formats)}")
    if not path.parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} must be a file in a folder that exists")
    return path


if __name__ == "__main__":
    main()
