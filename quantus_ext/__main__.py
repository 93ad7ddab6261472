"""Run ``python -m quantus_ext demo``, or ``evaluate CONFIG.toml`` in a pipeline."""

from __future__ import annotations

import argparse
import traceback
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase

from quantus_ext.plotting import save_figure


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
        With 1 where `evaluate` finds a threshold or a drift test that fails, with 2 where the
        arguments or the file are wrong.
    """
    parser = argparse.ArgumentParser(prog="python -m quantus_ext")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("demo", help="score explanations of a network that reads digits")
    command.add_argument("--out", type=_picture, default="quantus_ext_demo.png", help="the picture")
    command.add_argument("--n", type=int, default=100, help="digits to score (100)")
    command.add_argument("--seed", type=int, default=0, help="of the training and the metrics (0)")
    command = commands.add_parser("evaluate", help="evaluate what a TOML file describes")
    command.add_argument("config", type=Path, metavar="CONFIG.toml", help="see docs/evaluation.md")
    command.add_argument("--dry-run", action="store_true", help="say only what it would cost")
    options = parser.parse_args(arguments)
    if options.command == "evaluate":
        _evaluate(parser, options)
    else:
        _demo(parser, options)


def _evaluate(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    # Here because the demo has no need of it.
    from quantus_ext.evaluation import WorkerError
    from quantus_ext.evaluation.config import Config, Outcome

    try:
        outcome = Config(options.config).run(dry_run=options.dry_run)
    except (OSError, TypeError, ValueError, ImportError, AttributeError, WorkerError) as error:
        parser.exit(2, f"{options.config}: {type(error).__name__}: {error}\n")
    except Exception:
        # Of the code that the file names. An uncaught one would exit with 1, which says that a
        # threshold failed.
        parser.exit(2, f"{options.config}: {traceback.format_exc()}")
    if not isinstance(outcome, Outcome):
        # It has been printed where it was made.
        return
    print(outcome.evaluation.to_markdown())
    if outcome.drift is not None:
        print(outcome.drift.to_markdown(), end="\n\n")
    for path in outcome.written:
        print(f"Written: {path}")
    for line in outcome.broken:
        print(f"FAILED: {line}")
    if outcome.broken:
        parser.exit(1)


def _demo(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    try:
        # Here because it needs the packages of the extra `demo`.
        from quantus_ext import demo
    except ModuleNotFoundError as error:
        if error.name not in {"captum", "mlxtend"}:
            raise
        extra = 'pip install "quantus_ext[demo]", or in a clone ".[demo]"'
        parser.exit(1, f"The demo needs {error.name}: {extra}\n")
    if not 1 <= options.n <= demo.N_TEST:
        parser.error(f"argument --n: must be between 1 and {demo.N_TEST}; got {options.n}")

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
