"""Collect what a machine with a GPU, torch and no index lacks for ``python -m benchmarks.gpu``.

``python -m benchmarks.gpu.wheels`` downloads wheels for Python 3.12 on Linux to a folder that git
ignores, checks that together they stay small, and prints the line that runs all on that machine, in
a copy of the repository. It takes for granted what usually comes with torch and numpy;
``--have FILE`` names what that machine really has, as ``pip list --format=freeze`` there prints it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from email.parser import Parser
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYTHON = "3.12"
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 24, 17)),
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
)
ENVIRONMENT = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
}
MOST = 64 * 2**20
"""Bytes of all wheels together."""

USUAL = (
    "cloudpickle",
    "contourpy",
    "cycler",
    "filelock",
    "fonttools",
    "fsspec",
    "imageio",
    "joblib",
    "kiwisolver",
    "lazy-loader",
    "matplotlib",
    "networkx",
    "numpy",
    "opencv-python-headless",
    "packaging",
    "pandas",
    "pillow",
    "pluggy",
    "pygments",
    "pyparsing",
    "pytest",
    "python-dateutil",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "six",
    "threadpoolctl",
    "tifffile",
    "torch",
    "torch-geometric",
    "torchvision",
    "tqdm",
    "typing-extensions",
)
"""What is taken to be there."""

AS_GOOD = {"opencv-python": ("opencv-python-headless", "opencv-contrib-python")}
"""Other names of the same modules."""

Known = Mapping[str, str | None]
"""The version of what is there by canonical name, None for any."""


def needed(names: Iterable[str], extras: Iterable[str] = ("",)) -> list[Requirement]:
    """Return the requirements that hold on the other machine."""
    found = [Requirement(name) for name in names]
    return [
        each
        for each in found
        if each.marker is None
        or any(each.marker.evaluate({**ENVIRONMENT, "extra": extra}) for extra in extras)
    ]


def is_there(requirement: Requirement, have: Known) -> bool:
    """Whether a machine has what is required, in a version that will do."""
    name = canonicalize_name(requirement.name)
    for each in (name, *AS_GOOD.get(name, ())):
        if each in have:
            version = have[each]
            return version is None or requirement.specifier.contains(version, prereleases=True)
    return False


def read_have(text: str) -> dict[str, str | None]:
    """Return the versions in the lines of ``pip list --format=freeze``."""
    lines = (line.strip().partition("==") for line in text.splitlines() if line.strip())
    return {canonicalize_name(name): version or None for name, _, version in lines}


def requirements_of(wheel: Path) -> list[Requirement]:
    """Return what a wheel needs on the other machine."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(path).decode())
    return needed(metadata.get_all("Requires-Dist", []))


def download(requirement: Requirement, folder: Path) -> Path:
    """Fetch the wheel of one requirement and return it."""
    before = set(folder.glob("*.whl"))
    named = f"{requirement.name}{requirement.specifier}"
    platforms = [option for each in PLATFORMS for option in ("--platform", each)]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"),
            *(*platforms, "--dest", str(folder), named),
        ],
        check=True,
    )
    (wheel,) = set(folder.glob("*.whl")) - before
    return wheel


def collect(roots: Iterable[Requirement], have: Known, folder: Path) -> list[Path]:
    """Fetch what is required and not there, and what that needs in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        # Two versions of one package could not be installed.
        old.unlink()
    there, waiting, wheels = dict(have), list(roots), []
    while waiting:
        requirement = waiting.pop()
        if is_there(requirement, there):
            continue
        wheel = download(requirement, folder)
        there[canonicalize_name(requirement.name)] = None
        wheels.append(wheel)
        waiting += requirements_of(wheel)
    return wheels


def main() -> int:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.wheels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--folder", type=Path, default=Path("build/wheels"))
    made.add_argument("--have", type=Path, metavar="FILE", help="what the other machine has")
    chosen = made.parse_args()
    have: Known = (
        dict.fromkeys(USUAL) if chosen.have is None else read_have(chosen.have.read_text())
    )
    roots = needed([*(requires("quantus_ext") or []), "pytest", "torchvision"], ("", "demo"))
    wheels = collect(roots, have, chosen.folder)
    total = sum(wheel.stat().st_size for wheel in wheels)
    for wheel in sorted(wheels):
        print(f"{wheel.stat().st_size / 2**20:6.2f} MiB  {wheel.name}")
    print(f"{total / 2**20:6.2f} MiB  in {chosen.folder}")
    if total >= MOST:
        print(f"too much: must be less than {MOST / 2**20:.0f} MiB", file=sys.stderr)
        return 1
    install = "python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/site"
    print(
        f"\nThere, in a copy of the repository with this folder:\n\n"
        f"{install} {chosen.folder}/*.whl && "
        "PYTHONPATH=/tmp/site python3 -m benchmarks.gpu --out build/gpu"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
