"""What the command line ends with: 0 and 1 are verdicts, 2 is everything else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from quantus_ext import Evaluation
from quantus_ext.files import sealed_json
from tests.evaluation.problem import data

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

FILE = """
model = {call = "tests.evaluation.problem:network"}

[data]
x_batch = "x.npy"
y_batch = "y.npy"

[metrics.MoRF]
steps = 2

[xai_methods]
gradients = {import = "tests.harness:gradients"}

[run]
batch_size = 4
shard_size = 4

[report]
json = "found.json"
markdown = "card.md"
"""

NAMED = """
import sys
from pathlib import Path
from tests.evaluation.problem import network
from tests.harness import gradients
from quantus_ext import MoRF

def ends(*arguments, **keywords):
    sys.exit(0)

def breaks(*arguments, **keywords):
    raise RuntimeError("# no such [layer](http://a.b)")

class Unusual(BaseException):
    pass

def unusual(*arguments, **keywords):
    raise Unusual("as no library does")

def interrupted(model, inputs, targets):
    with open("calls", "a") as calls:
        calls.write("x")
    if Path("calls").read_text() == "xx":
        raise KeyboardInterrupt
    return gradients(model, inputs, targets)

class Ends(MoRF):
    def evaluate_batch(self, forward, batch):
        sys.exit(0)
"""

PASSES = '\n[[thresholds]]\nmetric = "MoRF"\nat_least = -1000\n'
FAILS = '\n[[thresholds]]\nmetric = "MoRF"\nat_least = 1000\n'
GRADIENTS = 'gradients = {import = "tests.harness:gradients"}'
MODEL = 'model = {call = "tests.evaluation.problem:network"}'


@dataclass(frozen=True)
class Case:
    """A command line, its exit code, and what the streams must hold."""

    code: int
    change: tuple[str, str] = ("", "")
    more: str = ""
    out: str = ""
    err: str = ""
    stdout: str = "file"
    stderr: str = "file"
    encoding: str = "utf-8"
    to_the_end: bool = False
    after: str | None = None
    """The case that left its folder."""
    arguments: tuple[str, ...] = ("evaluate", "config.toml")
    files: dict[str, Callable[[Path], object]] = field(default_factory=dict)


def run_key(line: str) -> tuple[str, str]:
    return "[run]", f"[run]\n{line}"


def explained_by(name: str) -> tuple[str, str]:
    return GRADIENTS, f'gradients = {{import = "named:{name}"}}'


def baseline(**changes: object) -> Callable[[Path], object]:
    """Write what to_json does, changed here and there; None leaves a key out."""

    def write(folder: Path) -> None:
        scores = {"gradients": {"MoRF": np.arange(12.0)}}
        content = json.loads(Evaluation.of_scores(scores, {"MoRF": "higher"}).to_json())
        content = {k: v for k, v in {**content, **changes}.items() if v is not None}
        (folder / "old.json").write_text(sealed_json(content))

    return write


DRIFT = '\n[drift]\nbaseline = "old.json"\n'
ENCODINGS = ("utf-8", "ascii", "latin-1", "cp1252", "utf-16")

CASES: dict[str, Case] = {
    **{f"good, {each}": Case(0, more=PASSES, encoding=each) for each in ENCODINGS},
    **{
        f"bad, {each}": Case(1, more=FAILS, encoding=each, out="FAILED: MoRF of gradients")
        for each in ENCODINGS
    },
    "closed pipe": Case(2, stdout="closed pipe", err="the output cannot be written"),
    "full device": Case(2, stdout="full", err="the output cannot be written"),
    **{
        f"{each}, to the end of Python": Case(2, stdout=each, stderr="full", to_the_end=True)
        for each in ("closed pipe", "full")
    },
    "full device, bad": Case(2, more=FAILS, stdout="full", err="the output cannot be written"),
    "both full": Case(2, stdout="full", stderr="full"),
    "no stream": Case(0, more=PASSES, stdout="none"),
    "no stream, bad": Case(1, more=FAILS, stdout="none"),
    "errors into a full device": Case(2, ("x.npy", "z.npy"), stderr="full"),
    # sys.exit(0) in each place.
    "ends at import": Case(
        2, (MODEL, 'model = {call = "ending:model"}'), err="ends the program with sys.exit(0)"
    ),
    "ends in the model": Case(2, (MODEL, 'model = {call = "named:ends"}'), err="sys.exit(0)"),
    "ends in a call of an explainer": Case(
        2, (GRADIENTS, 'gradients = {call = "named:ends"}'), err="sys.exit(0)"
    ),
    "ends in a metric's arguments": Case(
        2, ("steps = 2", 'steps = {call = "named:ends"}'), err="sys.exit(0)"
    ),
    "ends in an explainer": Case(
        1, explained_by("ends"), out="FAILED: gradients by MoRF: explaining failed: SystemExit: 0"
    ),
    "ends in a metric": Case(
        1, ("steps = 2", 'call = "named:Ends"'), out="FAILED: gradients by MoRF: SystemExit: 0"
    ),
    "ends in a thread": Case(
        1,
        (GRADIENTS, 'gradients = {import = "named:ends"}'),
        out="SystemExit: 0",
        more='\n[run]\nbackend = "threading"\nn_jobs = 2\n',
    ),
    # What fails.
    "an explainer that fails everywhere": Case(
        1, explained_by("breaks"), out="FAILED: gradients by MoRF: explaining failed: RuntimeError"
    ),
    "a failed cell among passed thresholds": Case(
        1, explained_by("breaks"), out="FAILED: gradients by MoRF: explaining failed"
    ),
    "neither": Case(0),
    "neither, dry run": Case(0, arguments=("evaluate", "config.toml", "--dry-run")),
    "will fail": Case(
        1,
        explained_by("breaks"),
        arguments=("evaluate", "config.toml", "--dry-run"),
        out="will fail: gradients, MoRF",
    ),
    "an error of another kind": Case(2, (MODEL, 'model = {call = "named:unusual"}'), err="Unusual"),
    "an error of another kind in an explainer": Case(2, explained_by("unusual"), err="Unusual"),
    "interrupted": Case(
        2, explained_by("interrupted"), err="config.toml: interrupted: nothing is kept, as [run]"
    ),
    "interrupted, with a store": Case(
        2,
        explained_by("interrupted"),
        more='[run]\nstore = "kept"\n',
        err="config.toml: interrupted: finished shards are kept in kept, and the same command",
    ),
    "gone on": Case(
        0,
        explained_by("interrupted"),
        more='[run]\nstore = "kept"\n',
        after="interrupted, with a store",
    ),
    # Mistakes in the file.
    "a method that is misspelt": Case(
        2, (GRADIENTS, "Saliencyy = {}"), err="method of xai_methods['Saliencyy'] must be one of"
    ),
    "threads": Case(2, run_key("threads = 1000000"), err="threads must be at most 1,024"),
    "workers": Case(2, run_key("n_jobs = 1000000"), err="n_jobs must be between 1 and"),
    "half a worker": Case(2, run_key("n_jobs = 1.5"), err="n_jobs must be an integer, is 1.5"),
    "steps": Case(2, ("steps = 2", f"steps = {10**25}"), err="[metrics.MoRF]: steps must be"),
    "a step too many": Case(2, ("steps = 2", "steps = 1000001"), err="at most 1,000,000"),
    "no argument": Case(2, ("steps = 2", "stepz = 2"), err="MoRF has no argument stepz"),
    "beside import": Case(
        2,
        (GRADIENTS, 'g = {import = "tests.harness:gradients", n = 3}'),
        err="xai_methods.g must hold nothing beside import, holds n",
    ),
    "beside file": Case(
        2,
        (GRADIENTS, 'g = {file = "x.npy", mmap = true}'),
        err="xai_methods.g must hold nothing beside file, holds mmap",
    ),
    "beside weights": Case(
        2,
        (MODEL, 'model = {weights = "w.pt", strict = true}'),
        err="model must hold nothing beside weights, holds strict",
    ),
    "import of a number": Case(2, (MODEL, "model = {import = 3}"), err="import of model must be"),
    "call of a number": Case(2, (MODEL, "model = {call = 3}"), err="call of model must be a text"),
    "file of a number": Case(
        2, (GRADIENTS, "g = {file = 3}"), err="file of xai_methods.g must be a text"
    ),
    "call of what is no function": Case(
        2, (MODEL, 'model = {call = "tests.evaluation.problem:N"}'), err="call must be callable"
    ),
    "a path that is none": Case(2, ('"x.npy"', "3"), err="x_batch of [data] must be a text"),
    "a store that is none": Case(2, run_key("store = 5"), err="store of [run] must be a text"),
    "a report that is none": Case(2, ('"card.md"', "5"), err="markdown of [report] must be"),
    "a section that is none": Case(
        2, ("[report]", "[[report]]"), err="[report] must be a table, is ["
    ),
    "no backend": Case(2, run_key('backend = "lokii"'), err="backend of [run]: "),
    "no model": Case(2, (MODEL, "model = 3"), err="model must be a torch.nn.Module, is int"),
    "limits crossed": Case(
        2, more='[[thresholds]]\nmetric = "MoRF"\nat_least = 2\nat_most = 1', err="at_least of"
    ),
    "no TOML": Case(2, ("[run]", "[run"), err="is no TOML"),
    "no file": Case(2, arguments=("evaluate", "none.toml"), err="none.toml"),
    # Baselines.
    "a baseline": Case(0, more=DRIFT + "alpha = 1e-9", files={"old": baseline()}),
    "another format": Case(2, more=DRIFT, files={"old": baseline(format=7)}, err="has format 7"),
    "a key missing": Case(
        2, more=DRIFT, files={"old": baseline(scores=None)}, err="KeyError('scores')"
    ),
    "another shape": Case(
        2,
        more=DRIFT,
        files={"old": baseline(scores=[[1.0]])},
        err="its arrays are not of 1 explainers",
    ),
    "names that are none": Case(
        2, more=DRIFT, files={"old": baseline(explainers=3)}, err="baseline of [drift]: source must"
    ),
    "another explainer": Case(
        2, more=DRIFT, files={"old": baseline(explainers=["other"])}, err="of the same names"
    ),
    "another direction": Case(
        2, more=DRIFT, files={"old": baseline(directions={"MoRF": "lower"})}, err="other direction"
    ),
    # Reports.
    "one report that cannot be written": Case(
        2,
        ("[report]", '[report]\nhtml = "folder"'),
        files={"folder": lambda folder: (folder / "folder").mkdir()},
        out="found.json",
        err="html of [report] cannot be written: IsADirectoryError",
    ),
    "the same, bad": Case(
        2,
        ("[report]", '[report]\nhtml = "folder"'),
        more=FAILS,
        files={"folder": lambda folder: (folder / "folder").mkdir()},
        out="FAILED",
    ),
    # Usage.
    "no arguments": Case(2, arguments=(), err="usage"),
    "unknown command": Case(2, arguments=("evaluat",), err="invalid choice"),
    "help": Case(0, arguments=("--help",), out="usage"),
    "help, full": Case(2, arguments=("--help",), stdout="full", err="cannot be written"),
    "a picture of no kind": Case(2, arguments=("demo", "--out", "a.doc"), err="must end in one of"),
    "too many digits": Case(2, arguments=("demo", "--n", str(10**25)), err="argument --n"),
    "no seed": Case(2, arguments=("demo", "--seed", "-1"), err="seed must be at least 0"),
}


@dataclass(frozen=True)
class Found:
    """What came of a case."""

    code: int
    out: str
    err: str
    folder: Path


def run_all(cases: dict[str, Case], root: Path) -> dict[str, Found]:
    """Run command lines in folders of their own."""
    x, y = data(12)
    jobs = {}
    for place, (name, case) in enumerate(cases.items()):
        folder = root / str(place if case.after is None else list(cases).index(case.after))
        folder.mkdir(exist_ok=True)
        for file, values in (("x", x), ("y", y)):
            np.save(folder / f"{file}.npy", values)
        # In [run] itself, of which a file has one.
        before, _, more = case.more.partition("[run]\n")
        text = FILE.replace(*case.change) if case.change[0] else FILE
        assert text != FILE or not case.change[0]
        if more:
            text = text.replace("[run]\n", f"[run]\n{more}")
        (folder / "config.toml").write_text(text + before)
        (folder / "named.py").write_text(NAMED)
        (folder / "ending.py").write_text("import sys\nsys.exit(0)\n")
        for make in case.files.values():
            make(folder)
        jobs[name] = {
            "folder": str(folder),
            "arguments": case.arguments,
            "stdout": case.stdout,
            "stderr": case.stderr,
            "encoding": case.encoding,
            "to_the_end": case.to_the_end,
            "out": str(folder / f"out{place}"),
            "err": str(folder / f"err{place}"),
        }
    done = subprocess.run(
        [sys.executable, "-m", "tests.evaluation.exit_codes", str(root / "0" / "config.toml")],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=300,
    )
    return {
        name: Found(
            code,
            Path(jobs[name]["out"]).read_text(cases[name].encoding),
            Path(jobs[name]["err"]).read_text(cases[name].encoding),
            Path(jobs[name]["folder"]),
        )
        for name, code in json.loads(done.stdout).items()
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run_all(CASES, tmp_path_factory.mktemp("codes"))


@pytest.mark.parametrize("name", CASES)
def test_exit_codes(found, name):
    case, result = CASES[name], found[name]
    assert result.code == case.code, result.err
    assert case.out in result.out
    assert case.err in result.err
    # A mistake is told in a line, and Python adds nothing as it ends.
    assert "Exception ignored" not in result.err
    if case.code == 2 and "Unusual" not in case.err:
        assert "Traceback" not in result.err


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.code < 2 and "evaluate" in case.arguments]
)
def test_reports_are_written_with_a_verdict(found, name):
    dry = "--dry-run" in CASES[name].arguments
    assert (found[name].folder / "found.json").exists() is not dry
    assert (found[name].folder / "card.md").exists() is not dry


@pytest.mark.parametrize(
    "name", ["closed pipe", "full device", "one report that cannot be written", "the same, bad"]
)
def test_what_cannot_be_written_keeps_no_report_back(found, name):
    evaluation = Evaluation.from_json(found[name].folder / "found.json")
    assert evaluation.explainers == ("gradients",)
    assert (found[name].folder / "card.md").exists()


def test_what_fails_is_named_and_marks_nothing_up(found):
    card = (found["an explainer that fails everywhere"].folder / "card.md").read_text()
    assert r"RuntimeError: \# no such \[layer\](http:\/\/a.b)" in card
    lines = [line for line in card.splitlines() if line.startswith("#")]
    assert lines == ["## Faithfulness of explanations"]


def test_an_interrupted_run_says_how_to_go_on_and_does(found):
    first, again = found["interrupted, with a store"], found["gone on"]
    assert len(first.err.strip().splitlines()) == 1
    assert len(list((first.folder / "kept" / "shards").iterdir())) == 3
    evaluation = Evaluation.from_json(again.folder / "found.json")
    assert not evaluation.failures
    # Where it was: the first shard is not explained again.
    assert (again.folder / "calls").read_text() == "xxxx"
