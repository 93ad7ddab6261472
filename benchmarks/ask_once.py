"""Many maps and many metrics: this build beside another one, one thread, in turns.

Run ``python -m benchmarks.ask_once --other CHECKOUT`` in the repository's root, CHECKOUT being a
clone of another version; ``--quick`` takes one round and writes nothing.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.page import Page, options, parser
from benchmarks.timing import Ratio, markdown_table, ratio

HERE = Path(__file__).resolve().parent
SAME = [
    *(f"{metric}, {model}" for model in ("LeNet", "CNN") for metric in ("MoRF", "RFidelity")),
    *(f"Infidelity, {model}" for model in ("LeNet", "CNN", "MLP")),
]
TIMES = {
    "evaluate, LeNet": 6.0,
    "evaluate, CNN": 6.0,
    "RFidelity with a blur": 3.0,
    "MetaQuantus with Infidelity, LeNet": 3.0,
    "its calls of Infidelity, LeNet": 3.0,
    "MetaQuantus with Infidelity, CNN": 3.0,
    "its calls of Infidelity, CNN": 3.0,
    **dict.fromkeys(SAME, 1 / 1.03),
}
"""How many times as fast as the other build each is to be."""
WITHIN = {
    ("Infidelity of 5 maps, LeNet", "Infidelity, LeNet"): 1.25,
    ("Infidelity of 5 maps, CNN", "Infidelity, CNN"): 1.25,
    ("Infidelity of 5 maps, MLP", "Infidelity, MLP"): 2.0,
    ("QGE(Infidelity), LeNet", "Infidelity, LeNet"): 1.15,
    ("QGE(Infidelity), CNN", "Infidelity, CNN"): 1.15,
}
"""How many times as long as the second the first may take."""


class Build:
    """A process that times a build."""

    def __init__(self, checkout: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "speed" / "builds.py")],
            env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer("ready")

    def ask(self, item: str) -> float:
        """Return the seconds that an item took."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{item}\n")
        self.process.stdin.flush()
        return float(self._answer("answer").split()[1])

    def _answer(self, word: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line
        raise RuntimeError("the process of a build has ended")


def verdict(reached: bool) -> str:
    return "reached" if reached else "MISSED"


def main() -> None:
    made = parser("ask_once", __doc__)
    made.add_argument("--other", type=Path, required=True, help="a clone of another version")
    made.add_argument("--repeats", type=int, default=7, help="rounds that times are taken in")
    chosen = options(made)
    # What the page says was run: a place on this machine would tell nobody anything.
    sys.argv = ["CHECKOUT" if word == str(chosen.other) else word for word in sys.argv]
    page = Page("ask_once", ("metaquantus",), quick=chosen.quick)
    rounds = 1 if chosen.quick else chosen.repeats
    builds = {"this": Build(HERE.parent), "other": Build(chosen.other)}
    wanted = [*TIMES, *dict.fromkeys(first for first, _ in WITHIN)]
    seconds: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds + 1):
        for item in wanted:
            for name, build in builds.items():
                took = build.ask(item)
                # The first round pays for what is made once.
                if turn:
                    seconds.setdefault((name, item), []).append(took)
    rows = []
    for item, wish in TIMES.items():
        found = ratio(seconds["other", item], seconds["this", item])
        spent = statistics.median(seconds["this", item])
        rows.append(
            [item, f"{spent:.3f} s", str(found), f"≥ {wish:.2f}", verdict(found.median >= wish)]
        )
    header = ["", "this build", "the other takes", "aim", ""]
    within = []
    for (first, second), most in WITHIN.items():
        own: Ratio = ratio(seconds["this", first], seconds["this", second])
        before = ratio(seconds["other", first], seconds["other", second])
        within.append(
            [f"{first} / {second}", str(own), str(before), f"≤ {most}", verdict(own.median <= most)]
        )
    page.text(
        f"Medians of {rounds} rounds in which the builds alternate, with the lowest and the "
        "highest ratio of a round.\n\n"
        f"{markdown_table(header, rows)}\n\n"
        f"{markdown_table(['', 'this build', 'the other', 'aim', ''], within)}"
    )
    for build in builds.values():
        build.process.kill()


if __name__ == "__main__":
    main()
