"""The reference site: it builds without a warning, and every public name is in it."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import zlib
from pathlib import Path
from types import ModuleType

import pytest

import quantus_ext

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FURTHER = {
    "quantus_ext.base": ["TorchMetric"],
    "quantus_ext.batch": ["Batch", "Explainer"],
    "quantus_ext.engine.elements": ["Elements", "elements_of"],
    "quantus_ext.engine.forward": ["Forward"],
    "quantus_ext.engine.perturb": ["Perturbation"],
    "quantus_ext.engine.replacements": ["replace_by"],
    "quantus_ext.metaquantus": ["score_direction"],
    "quantus_ext.metrics.removal": ["RemovalMetric"],
    "quantus_ext.perturbation": ["bind", "resolve"],
}
"""What users meet of modules that do not say what of them is public."""


def public() -> list[tuple[ModuleType, str]]:
    """Return all names that modules declare public, and the further ones."""
    names = [(importlib.import_module(module), n) for module, ns in FURTHER.items() for n in ns]
    for found in pkgutil.walk_packages(quantus_ext.__path__, "quantus_ext."):
        if not found.name.endswith("__main__"):
            module = importlib.import_module(found.name)
            names += [(module, name) for name in getattr(module, "__all__", ())]
    return names + [(quantus_ext, name) for name in quantus_ext.__all__]


@pytest.fixture(scope="module")
def documented(tmp_path_factory) -> set[str]:
    """Build the site and return what its index has."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs"]
    built = subprocess.run(
        [*command, "-d", str(site / "doctrees"), ".", str(site / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    # Four lines of text, then a line a name: "name domain:role …".
    *_, packed = (site / "html/objects.inv").read_bytes().split(b"\n", 4)
    entries = [line.split() for line in zlib.decompress(packed).decode().splitlines()]
    return {name for name, kind, *_ in entries if kind.startswith("py:")}


def missing(documented: set[str], names: list[tuple[ModuleType, str]]) -> list[str]:
    """Return public names that the site has neither by that name nor where they are defined.

    Nor in a package that holds the module of their definition.
    """
    without = []
    for module, name in names:
        shown = getattr(module, name)
        places = [module.__name__]
        home = getattr(shown, "__module__", "")
        while home.startswith("quantus_ext."):
            places.append(home)
            home = home.rpartition(".")[0]
        if not documented & {f"{place}.{name}" for place in places}:
            without.append(f"{module.__name__}.{name}")
    return without


def test_every_public_name_is_in_the_reference(documented):
    names = public()
    assert {module.__name__ for module, _ in names} >= {
        "quantus_ext",
        "quantus_ext.adapters",
        "quantus_ext.finetune",
        "quantus_ext.functional",
        "quantus_ext.plotting",
        "quantus_ext.protocols",
    }
    assert missing(documented, names) == []
    # A name that is not there is found out.
    assert missing(documented, [(quantus_ext.plotting.tokens, "wrapped")])
