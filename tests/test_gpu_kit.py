"""What measures a GPU keeps working where there is none, and keeps what it has when parts fail."""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

from benchmarks.gpu import boxes, correctness, traffic, wheels
from benchmarks.gpu.boxes import Box, Report
from quantus_ext.base import TorchMetric

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")

_BEGIN = """
import json, os, sys, time
def say(what):
    print(json.dumps({"entry": {"what": what, "case": "net", "measured": 2.0}}), flush=True)
"""
SCRIPTS = {
    "good": 'say("first"); say("second")',
    "failing part": """
from benchmarks.gpu.boxes import Report
from benchmarks.speed.results import Entry
report = Report(sys.stdout)
with report.part("a part"):
    raise ValueError("what is wrong\\nand where")
report.add(Entry("after it", "net", 3.0))
sys.exit(1 if report.failed else 0)
""",
    "raises": 'say("before"); raise ValueError("all is wrong")',
    "dies": 'say("before"); os._exit(3)',
    "is killed": 'say("before"); os.kill(os.getpid(), 9)',
    "hangs": 'say("before"); time.sleep(100)',
    "talks": 'say("before"); print("a banner", flush=True)',
}


def box(script: str, seconds: float = 20.0) -> Box:
    return Box("Title", "About.", [sys.executable, "-c", _BEGIN + script], seconds)


def run(folder: Path, **made: Box) -> tuple[bool, dict[str, Any], str]:
    went_well = boxes.run(made, folder, "About all.")
    known = json.loads((folder / "gpu.json").read_text())
    assert not list(folder.glob("*.partial"))
    return went_well, known["sections"], (folder / "gpu.md").read_text()


def whats(section: dict[str, Any]) -> list[str]:
    return [entry["what"] for entry in section["entries"]]


@pytest.fixture(scope="module", autouse=True)
def _in_the_repository():
    # The processes that are started import the benchmarks.
    before = Path.cwd()
    os.chdir(ROOT)
    yield
    os.chdir(before)


@pytest.mark.parametrize(
    ("script", "kept", "failure"),
    [
        ("failing part", ["after it"], "a part: ValueError: what is wrong"),
        ("raises", ["before"], "exit code 1: ValueError: all is wrong"),
        ("dies", ["before"], "exit code 3: nothing was said"),
        ("is killed", ["before"], "exit code -9: nothing was said"),
        ("talks", ["before"], "said what is no line of a report: a banner"),
    ],
)
def test_a_section_that_fails_is_recorded_and_others_go_on(tmp_path, script, kept, failure):
    well, sections, page = run(tmp_path, bad=box(SCRIPTS[script]), good=box(SCRIPTS["good"]))
    assert not well
    assert sections["bad"]["state"] == "failed"
    assert sections["bad"]["failures"] == [failure]
    assert whats(sections["bad"]) == kept
    assert sections["good"]["state"] == "done"
    assert whats(sections["good"]) == ["first", "second"]
    assert f"- **failed**: {failure}" in page
    assert "| second |" in page


def test_a_section_out_of_time_is_ended_with_all_that_it_started(tmp_path):
    note = tmp_path / "pid"
    starts = f"""
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
open({str(note)!r}, "w").write(str(child.pid))
"""
    well, sections, page = run(
        tmp_path, slow=box(starts + SCRIPTS["hangs"], 2.0), good=box(SCRIPTS["good"])
    )
    assert not well
    assert sections["slow"]["state"] == "out of time after 2 s"
    assert "out of time after 2 s" in page
    assert whats(sections["slow"]) == ["before"]
    assert sections["good"]["state"] == "done"
    status = Path(f"/proc/{note.read_text()}/status")
    assert not status.exists() or "zombie" in status.read_text()


def test_what_a_section_leaves_of_its_time_is_for_the_next(tmp_path):
    takes = 'time.sleep(1.5); say("done")'
    assert run(tmp_path, quick=box(SCRIPTS["good"]), slow=box(takes, 0.5))[0]


def test_results_are_written_while_a_section_runs(tmp_path):
    waits = f"""
say("first")
for _ in range(100):
    known = json.load(open({str(tmp_path / "gpu.json")!r}))["sections"]["section"]
    if known["state"] == "running" and [e["what"] for e in known["entries"]] == ["first"]:
        sys.exit(0)
    time.sleep(0.1)
sys.exit(1)
"""
    assert run(tmp_path, section=box(waits))[0]


class Lines(io.StringIO):
    """A report's lines."""

    def of(self, kind: str) -> list[Any]:
        return [
            said[kind] for said in map(json.loads, self.getvalue().splitlines()) if kind in said
        ]


def test_a_number_beyond_what_is_allowed_fails_and_is_kept():
    lines = Lines()
    report = Report(lines)
    calls = []

    def draw(device: torch.device) -> torch.Tensor:
        calls.append(device)
        return torch.arange(5) * len(calls)

    with report.part("draws"):
        report.require(correctness._same("numbers", draw, CPU))
    assert report.failed
    assert [entry["measured"] for entry in lines.of("entry")] == [4]
    assert lines.of("failure") == ["draws: AssertionError: is 4, must be at most 0"]


@pytest.mark.parametrize(
    ("expected", "found", "difference"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -4.0], [1.2, -4.0], 0.05),
        ([0.0, 0.0], [0.0, 0.1], 0.1),
        ([np.nan, 2.0], [np.nan, 2.5], 0.25),
        ([np.nan, 2.0], [1.0, 2.0], np.inf),
        ([np.inf, 2.0], [np.inf, 2.0], 0.0),
        ([np.inf, 2.0], [1.0, 2.0], np.inf),
        ([1.0], [1.0, 1.0], np.inf),
        ([np.nan], [np.nan], 0.0),
    ],
)
def test_differences_are_relative_to_the_largest_number(expected, found, difference):
    assert correctness._relative(np.array(expected), np.array(found)) == pytest.approx(difference)


def test_every_detail_is_compared():
    def metric(**details: list[float]) -> TorchMetric:
        made = object.__new__(TorchMetric.__subclasses__()[0])
        made.evaluation_scores = [1.0, 2.0]
        made.standard_errors = np.array([0.5, 1.0])
        made.details = {name: np.array(values) for name, values in details.items()}
        return made

    found = correctness.Difference.of(metric(a=[1, 2], b=[1, 2]), metric(a=[1, 2], b=[1, 3]))
    assert found == (0.0, 0.5, "b")
    with pytest.raises(AssertionError, match=r"details are \['a'\], not \['a', 'b'\]"):
        correctness.Difference.of(metric(a=[1], b=[1]), metric(a=[1]))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["correctness", "memory", "shares", "speed"])
def test_a_section_runs_on_a_processor(name):
    pytest.importorskip("torch_geometric")
    lines = Lines()
    report = Report(lines)
    state, flags = torch.get_rng_state(), torch.backends.cudnn.allow_tf32
    try:
        importlib.import_module(f"benchmarks.gpu.{name}").section(report, CPU, True)
    finally:
        # captum's own draws.
        torch.set_rng_state(state)
    assert lines.of("failure") == []
    assert len(lines.of("entry")) > 5
    assert torch.backends.cudnn.allow_tf32 == flags


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def test_the_command_runs_the_contracts_tests_on_a_processor(tmp_path):
    done = command("--device", "cpu", "--quick", "--only", "contract", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (section,) = json.loads((tmp_path / "gpu.json").read_text())["sections"].values()
    counts = {entry["what"]: entry["measured"] for entry in section["entries"]}
    assert counts["tests that passed"] > 5
    assert counts["tests that failed"] == 0
    assert "torch" in section["environment"]


def test_the_kernel_draws_the_same_subsets_in_the_interpreter(tmp_path):
    pytest.importorskip("triton")
    done = command("--device", "cpu", "--quick", "--only", "kernel", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (section,) = json.loads((tmp_path / "gpu.json").read_text())["sections"].values()
    assert {entry["what"]: entry["measured"] for entry in section["entries"]} == {
        "draws by the kernel that differ": 0,
        "scores by the kernel that differ": 0,
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_so(tmp_path):
    done = command("--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "no CUDA device here; --device cpu is a dry run" in done.stderr
    assert not (tmp_path / "out").exists()


def test_where_the_command_is_ended_its_sections_end(tmp_path):
    arguments = ["--device", "cpu", "--quick", "--only", "contract", "--out", str(tmp_path)]
    parent = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu", *arguments], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    children: list[str] = []
    while not children and parent.poll() is None:
        time.sleep(0.05)
        # Before that, imports may start processes of their own.
        if not any("running" in each.read_text() for each in tmp_path.glob("*.json")):
            continue
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    parent.terminate()
    assert parent.wait(20) == 143
    assert children
    assert not any(Path(f"/proc/{child}").exists() for child in children)


# Wheels

INDEX = {
    "a": ["b>=2", "c; extra == 'more'", "d; python_version < '3.12'", "opencv-python>=4"],
    "b": ["a", "e[x]; sys_platform == 'linux'"],
    "e": [],
}


@pytest.fixture
def _index(monkeypatch):
    def download(requirement: Requirement, folder: Path) -> Path:
        wheel = folder / f"{requirement.name}-9-py3-none-any.whl"
        lines = [f"Requires-Dist: {each}" for each in INDEX[requirement.name]]
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{requirement.name}-9.dist-info/METADATA", "\n".join(lines))
        return wheel

    monkeypatch.setattr(wheels, "download", download)


def collected(tmp_path: Path, have: str) -> set[str]:
    found = wheels.collect(wheels.needed(["a"]), wheels.read_have(have), tmp_path)
    assert sorted(found) == sorted(tmp_path.glob("*.whl"))
    return {wheel.name[0] for wheel in found}


@pytest.mark.usefixtures("_index")
@pytest.mark.parametrize(
    ("have", "fetched"),
    [
        ("opencv_python_headless==4.9", {"a", "b", "e"}),
        ("opencv-python==5.0\nB==2.1\n", {"a"}),
        ("opencv-python==5.0\nb==1.9\ne==1", {"a", "b"}),
        ("a==1.0", set()),
    ],
)
def test_what_is_missing_is_fetched_with_what_it_needs(tmp_path, have, fetched):
    (tmp_path / "old-1-py3-none-any.whl").touch()
    assert collected(tmp_path, have) == fetched


@pytest.mark.usefixtures("_index")
def test_an_older_version_of_other_names_is_fetched_too(tmp_path):
    with pytest.raises(KeyError, match="opencv-python"):
        collected(tmp_path, "opencv-python-headless==3.0")


@pytest.mark.usefixtures("_index")
@pytest.mark.parametrize(("most", "code"), [(10, 1), (2**20, 0)])
def test_the_sum_of_the_wheels_must_be_small(tmp_path, monkeypatch, capsys, most, code):
    have, folder = tmp_path / "have", tmp_path / "wheels"
    have.write_text("opencv-python==5.0\npytest==9\ntorchvision==1")
    monkeypatch.setattr(wheels, "requires", lambda _: ["a", "c; extra == 'test'"])
    monkeypatch.setattr(wheels, "MOST", most)
    arguments = ["wheels", "--have", str(have), "--folder", str(folder)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert wheels.main() == code
    said = capsys.readouterr()
    assert "a-9-py3-none-any.whl" in said.out
    assert ("too much" in said.err) == bool(code)
    assert (f"{folder}/*.whl && PYTHONPATH" in said.out) == (not code)


# Traffic


def test_an_operation_moves_its_inputs_and_its_output_and_a_view_nothing():
    counting = traffic.Counting()
    with counting:
        x = torch.zeros(10)
        with counting.switched(True):
            x + x.view(2, 5).flatten()
            y = torch.zeros(1, 1).expand(4, 5)
            torch.empty_like(y)
            with counting.switched(False):
                y + y
            y * 2
    assert counting.operations == 3
    # Two inputs and an output; a number; a number's storage and an output.
    assert counting.bytes == 4 * (30 + 1 + 1 + 20)


def test_without_draws_and_writes_a_row_moves_less():
    most = {scheme: traffic.count((3, 16, 16), 8, scheme)[1] for scheme in ("patch", "subset")}
    assert 0 < most["patch"] < most["subset"]
