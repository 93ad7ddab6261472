"""Run ``python -m quantus_ext demo``: train, explain, score; a table and a picture."""

from __future__ import annotations

import argparse
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
    """
    parser = argparse.ArgumentParser(prog="python -m quantus_ext")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("demo", help="score explanations of a network that reads digits")
    command.add_argument("--out", type=_picture, default="quantus_ext_demo.png", help="the picture")
    command.add_argument("--n", type=int, default=100, help="digits to score (100)")
    command.add_argument("--seed", type=int, default=0, help="of the training and the metrics (0)")
    options = parser.parse_args(arguments)

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
    maps = demo.explain(problem, options.n)
    results = demo.score(problem, maps)
    print(f"Mean over {options.n} digits ± its standard error; rank 1 is best.\n")
    print(demo.table(results))
    save_figure(demo.draw(problem, maps, results), options.out)
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
