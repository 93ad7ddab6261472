"""What metrics of the same names give elsewhere, on a linear model whose answers are known.

Each library is installed, pinned, in an environment of its own in a temporary folder, and asked
there, without this package. The model is f(x) = 1 - w·x, w·x for the two classes, with a hundred
features that are 1: with equal w, each removal takes the same from the output, a straight line
whose area is 0.5; with others, w is the exact map. What this package gives stands beside it.
Run ``python -m benchmarks.neighbours`` in the repository's root; it writes ``docs/neighbours.md``.
With ``--here`` the environments see the packages of the running one, and get nothing but theirs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import trapezoid
from torch import nn

import quantus_ext
from benchmarks.page import options, parser
from benchmarks.timing import markdown_table, write_atomically

N = 100
PAGE = Path(__file__).parents[1] / "docs" / "neighbours.md"

COMMON = """
import json, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
from torch import nn

class Linear(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.as_tensor(w, dtype=torch.float32).flatten())
    def forward(self, x):
        y = x.flatten(1) @ self.w[: x[0].numel()]
        return torch.stack([1 - y, y], 1)

N = 100
straight = Linear(np.full(N, 1 / N)).eval()
sloped = np.linspace(2, 0, N) / N
x = torch.ones(1, 1, 10, 10)
order = torch.from_numpy(np.random.default_rng(0).permutation(N).astype("float32"))
order = order.reshape(1, 1, 10, 10)
one = torch.tensor([1])
found = {}
"""
TELL = "\nprint('FOUND', json.dumps({name: float(value) for name, value in found.items()}))\n"


class Library(NamedTuple):
    """A library, what it needs, and what it is asked."""

    name: str
    requires: tuple[str, ...]
    probe: str
    here: tuple[str, ...] = ()
    """What ``--here`` installs, without what that needs in turn; by default ``requires``."""


class Row(NamedTuple):
    """A figure: what it comes from, and what this package gives."""

    library: str
    key: str
    metric: str
    formula: str
    expected: Callable[[], float]
    ours: Callable[[], float] | None
    why: str = ""
    """Why this package gives nothing of the kind."""


class Linear(nn.Module):
    """1 - w·x and w·x."""

    def __init__(self, w: np.ndarray) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.as_tensor(w, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return both."""
        y = x.flatten(1) @ self.w
        return torch.stack([1 - y, y], 1)


STRAIGHT, SLOPED = np.full(N, 1 / N), np.linspace(2, 0, N) / N
ORDER = np.random.default_rng(0).permutation(N).astype(np.float32).reshape(1, 1, 10, 10)
X = np.ones((1, 1, 10, 10), dtype=np.float32)


def ours(
    metric: quantus_ext.base.TorchMetric, w: np.ndarray = STRAIGHT, a: np.ndarray = ORDER
) -> float:
    """Return the score of this package."""
    call = (Linear(w).eval(), X, np.array([1]), a.reshape(X.shape))
    return float(metric(*call, softmax=False)[0])


def our_infidelity(scale: float) -> float:
    """Return what this package gives for a multiple of the exact map, one feature at a time."""
    metric = quantus_ext.Infidelity(perturb_patch_sizes=[1], perturb_baseline=0.0)
    return ours(metric, SLOPED, scale * SLOPED.astype(np.float32))


def infidelity(scale: float) -> float:
    """Return the mean of ((s - 1) w·I)² for I of one feature."""
    return float(((scale - 1) ** 2 * SLOPED**2).mean())


def line(points: np.ndarray) -> np.ndarray:
    """Return the straight line at these shares of removed features."""
    return 1 - points


LIBRARIES = (
    Library(
        "quantus 0.6.0",
        ("quantus==0.6.0", "captum==0.9.0", "torch", "setuptools<81"),
        """
import quantus
table = lambda w: nn.Sequential(nn.Flatten(), Linear(w)).eval()
four = torch.tensor([[1.0, 2.0, 3.0, 10.0]]).numpy().reshape(1, 1, 4)
label = np.array([1])
plain = {"abs": False, "normalise": False, "disable_warnings": True}
call = {"channel_first": True, "softmax": False}
for name, up in {"up": [1, 2, 3, 4], "down": [4, 3, 2, 1]}.items():
    flipping = quantus.PixelFlipping(perturb_baseline="mean", **plain)
    a = np.array(up, dtype="float32").reshape(1, 1, 4)
    found["mean " + name] = flipping(table(np.ones(4)), four, label, a, **call)[0][-1]
for name, sign in {"exact": 1, "turned": -1}.items():
    a = sign * sloped.astype("float32").reshape(1, 1, 10, 10)
    estimate = quantus.Monotonicity(**plain)
    scores = estimate(table(sloped), x.numpy(), label, a, **call)
    found["monotonicity " + name] = scores[0]
ig = quantus.explain(straight, x.numpy(), label, method="IntegratedGradients")
found["integrated gradients"] = ig.sum()
""",
    ),
    Library(
        "captum 0.9.0",
        ("captum==0.9.0",),
        """
from captum.attr import DeepLift, IntegratedGradients
from captum.metrics import infidelity
model = Linear(sloped).eval()
units = torch.eye(N).reshape(N, 1, 1, 10, 10)
def score(a, unit):
    change = lambda inputs: (unit, inputs - unit)
    return infidelity(model, change, x, a, target=1, n_perturb_samples=1)
for name, scale in {"exact": 1, "zeros": 0, "turned": -1}.items():
    a = scale * torch.from_numpy(sloped.astype("float32")).reshape(1, 1, 10, 10)
    values = [score(a, unit) for unit in units]
    found["infidelity " + name] = torch.cat(values).mean()
for steps in (2, 10, 50):
    rule = {"n_steps": steps, "method": "riemann_trapezoid"}
    made = IntegratedGradients(straight).attribute(x, target=1, **rule)
    found[f"trapezoid {steps}"] = made.sum()
found["default"] = IntegratedGradients(straight).attribute(x, target=1).sum()
bent = nn.Sequential(nn.Linear(1, 1), nn.GELU(), nn.Linear(1, 2)).eval()
with torch.no_grad():
    for part, value in ((bent[0], 1.0), (bent[2], 1.0)):
        part.weight.fill_(value); part.bias.zero_()
found["deeplift"] = DeepLift(bent).attribute(torch.ones(1, 1), target=1).sum()
""",
    ),
    Library(
        "pnpxai 0.1.4",
        ("pnpxai==0.1.4",),
        """
from pnpxai.evaluator.metrics import Complexity, LeRF, MoRF
for kind in (MoRF, LeRF):
    metric = kind(straight, prob_fn=lambda outputs: outputs)
    found[kind.__name__] = metric.evaluate(x, one, order)[0]
found["uniform"] = Complexity(straight).evaluate(x, one, torch.ones(1, 1, 10, 10))[0]
""",
        (
            "pnpxai==0.1.4",
            "zennit",
            "plotly",
            "tabulate",
            "colorlog",
            "optuna",
            "sqlalchemy",
            "alembic",
            "mako",
        ),
    ),
    Library(
        "torchcam 0.5.0",
        ("torchcam==0.5.0",),
        """
from contextlib import nullcontext
from torchcam.metrics import DeletionInsertionMetric
class Maps:
    def __init__(self, model, cam): self.model, self.cam = model, cam
    def __call__(self, *args, **keywords): return [self.cam]
    def fuse_cams(self, cams): return cams[0]
    def _hooks_off(self): return nullcontext()
down = torch.arange(N, 0, -1).float().reshape(1, 10, 10)
cases = {"": (straight, order[0]), "sloped ": (Linear(sloped).eval(), down)}
for name, (model, cam) in cases.items():
    metric = DeletionInsertionMetric(Maps(model, cam))
    metric.update(x, 1)
    for key, value in metric.summary().items():
        found[name + key] = value
""",
    ),
    Library(
        "attribench 0.1.9",
        ("attribench==0.1.9",),
        """
from attribench.functional.metrics.deletion._deletion import _deletion_batch
from attribench.masking.image import ConstantImageMasker
for steps in (11, 100):
    masker = ConstantImageMasker("pixel")
    maskers, asked = {"zero": masker}, (["linear"], "morf", 0.0, 1.0, steps)
    made = _deletion_batch(x, one, straight, order, maskers, *asked)
    found[f"deletion {steps}"] = made["zero"]["linear"].mean()
""",
        ("attribench==0.1.9", "h5py", "statsmodels", "patsy"),
    ),
    Library(
        "torchxai-tools 0.1.3",
        ("torchxai-tools==0.1.3",),
        """
from torchxai.data_types import SingleTargetAcrossBatch
from torchxai.metrics import infidelity
model = Linear(sloped).eval()
exact = torch.from_numpy(sloped.astype("float32")).reshape(1, 1, 10, 10)
target = SingleTargetAcrossBatch(index=1)
for name, scale in {"exact": 1, "turned": -1, "hundredfold": 100}.items():
    torch.manual_seed(0); np.random.seed(0)
    call = {"baselines": torch.zeros_like(x), "target": target, "n_perturb_samples": 50}
    found["infidelity " + name] = infidelity(model, x, scale * exact, **call)[0]
""",
    ),
    Library(
        "grad-cam 1.5.7",
        ("grad-cam==1.5.7",),
        """
from pytorch_grad_cam.metrics.road import ROADMostRelevantFirst
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
few = np.zeros((1, 10, 10), dtype="float32"); few[0, 0, :5] = [5, 4, 3, 2, 1]
for name, cam in {"many zeros": few, "no ties": order[0].numpy()}.items():
    metric = ROADMostRelevantFirst(percentile=80)
    targets = [ClassifierOutputTarget(1)]
    scores, changed = metric(x, cam, targets, straight, return_visualization=True)
    found["imputed " + name] = ((changed - x).abs() > 0).float().mean()
""",
        ("grad-cam==1.5.7", "ttach"),
    ),
    Library(
        "torch_geometric 2.8.1",
        ("torch_geometric==2.8.1",),
        """
from torch_geometric.explain.metric import characterization_score, fidelity_curve_auc
both = torch.tensor([0.8]), torch.tensor([0.2])
found["characterization"] = characterization_score(*both)[0]
curve = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.5]), torch.tensor([0.0, 1.0])
found["curve auc"] = fidelity_curve_auc(*curve)
""",
    ),
    Library(
        "xplique 2.0.2",
        ("xplique==2.0.2", "tensorflow-cpu"),
        """
import tensorflow as tf
from xplique.metrics import Deletion, Insertion
weights = np.stack([-np.full(N, 1 / N), np.full(N, 1 / N)], 1)
layers = tf.keras.layers
net = tf.keras.Sequential([tf.keras.Input((10, 10, 1)), layers.Flatten(), layers.Dense(2)])
net.layers[-1].set_weights([weights, np.array([1.0, 0.0])])
images, labels = np.ones((1, 10, 10, 1), "float32"), np.array([[0.0, 1.0]], "float32")
for kind in (Deletion, Insertion):
    metric = kind(net, images, labels, steps=10)
    found[kind.__name__] = metric(order.numpy().reshape(1, 10, 10))
""",
        ("xplique==2.0.2",),
    ),
    Library("InterpretDL 0.8.0", ("interpretdl==0.8.0",), "import interpretdl\n"),
    Library("ferret-xai 0.4.2", ("ferret-xai==0.4.2",), "import ferret\n"),
    Library("autotimm 0.7.37", ("autotimm==0.7.37",), "import autotimm\n"),
    Library("OpenXAI", ("openxai",), "import openxai\n"),
)

TENTHS = np.linspace(0, 1, 11)
ROWS = (
    Row(
        *("quantus 0.6.0", "mean up", 'PixelFlipping, `perturb_baseline="mean"`: end of the curve'),
        "[1, 2, 3, 10], the largest first, each becomes the mean of what is there",
        lambda: _flipped([3, 2, 1, 0]),
        lambda: 16.0,
    ),
    Row(
        *("quantus 0.6.0", "mean down", "the same, the smallest first"),
        "as above; everything replaced by the mean picture sums to 16",
        lambda: _flipped([0, 1, 2, 3]),
        lambda: 16.0,
    ),
    Row(
        *("quantus 0.6.0", "monotonicity exact", "Monotonicity of the exact map"),
        "the baseline is replaced by itself: 1 for every map",
        lambda: 1.0,
        None,
        "removal curves are areas here",
    ),
    Row(
        *("quantus 0.6.0", "monotonicity turned", "Monotonicity of its negative"),
        "as above",
        lambda: 1.0,
        None,
        "removal curves are areas here",
    ),
    Row(
        *("quantus 0.6.0", "integrated gradients", "sum of Integrated Gradients, exact 1"),
        "weights of the trapezoid rule, 1 - 1/10",
        lambda: 1 - 1 / 10,
        None,
        "explainers are captum's",
    ),
    *(
        Row(
            *("captum 0.9.0", f"trapezoid {n}", f"sum of `riemann_trapezoid`, {n} steps, exact 1"),
            f"1 - 1/{n}",
            lambda n=n: 1 - 1 / n,
            None,
            "explainers are captum's",
        )
        for n in (2, 10, 50)
    ),
    Row(
        *("captum 0.9.0", "default", "sum of the default rule"),
        "exact for linear models",
        lambda: 1.0,
        None,
        "explainers are captum's",
    ),
    Row(
        *("captum 0.9.0", "deeplift", "DeepLift of GELU at 1, baseline 0; f(1) - f(0) is 0.8413"),
        "the derivative of GELU at 1",
        lambda: _gelu_slope(),
        None,
        "explainers are captum's",
    ),
    *(
        Row(
            *("captum 0.9.0", f"infidelity {name}", f"Infidelity, one feature at a time, {what}"),
            "mean of ((s - 1) w)², s the factor of the map",
            lambda s=s: infidelity(s),
            lambda s=s: our_infidelity(s),
        )
        for name, what, s in (
            ("exact", "exact map", 1.0),
            ("zeros", "map of zeros", 0.0),
            ("turned", "its negative", -1.0),
        )
    ),
    *(
        Row(
            *("pnpxai 0.1.4", kind, f"{kind}, 10 steps, straight line"),
            "mean of ten points, after 0 to 80 % and after all",
            lambda: float(line(np.append(TENTHS[:9], 1)).mean()),
            (lambda: ours(quantus_ext.MoRF(10)))
            if kind == "MoRF"
            else (lambda: ours(quantus_ext.LeRF(10))),
        )
        for kind in ("MoRF", "LeRF")
    ),
    Row(
        *("pnpxai 0.1.4", "uniform", "Complexity of a uniform map"),
        "entropy of a histogram of values: all in one bin",
        lambda: 0.0,
        None,
        "no such metric",
    ),
    *(
        Row(
            *("torchcam 0.5.0", key, f"{key}, straight line"),
            "trapezoid over the share removed",
            lambda: 0.5,
            ours_of,
        )
        for key, ours_of in (
            ("deletion_auc", lambda: ours(quantus_ext.Deletion(20))),
            ("insertion_auc", lambda: ours(quantus_ext.Insertion(20))),
        )
    ),
    Row(
        *("torchcam 0.5.0", "sloped deletion_auc", "deletion of the exact map"),
        "trapezoid over the share removed, the largest weights first",
        lambda: _sloped_deletion(),
        lambda: ours(quantus_ext.Deletion(20), SLOPED, np.arange(N, 0, -1, dtype=np.float32)),
    ),
    *(
        Row(
            *("attribench 0.1.9", f"deletion {n}", f"deletion, {n} points, straight line"),
            f"mean of what is left after floor(i/{n - 1} of 100), i = 0 … {n - 1}",
            lambda n=n: float(line(np.floor(np.linspace(0, 1, n) * N) / N).mean()),
            lambda n=n: ours(quantus_ext.Deletion(n - 1)),
        )
        for n in (11, 100)
    ),
    *(
        Row(
            *("torchxai-tools 0.1.3", f"infidelity {name}", f"Infidelity by default, {what}"),
            "normalised: neither factor nor sign of a map counts",
            lambda: 0.0,
            lambda s=s: our_infidelity(s),
        )
        for name, what, s in (
            ("exact", "exact map", 1.0),
            ("turned", "its negative", -1.0),
            ("hundredfold", "a hundred times it", 100.0),
        )
    ),
    Row(
        *("grad-cam 1.5.7", "imputed many zeros", "ROAD at 80 %, map with 5 of 100 values"),
        "share of the picture replaced: all values at or above a threshold of 0",
        lambda: 1.0,
        None,
        "a share is that share here, ties by seed",
    ),
    Row(
        *("grad-cam 1.5.7", "imputed no ties", "the same, map without ties"),
        "share of the picture replaced",
        lambda: 0.2,
        None,
        "a share is that share here, ties by seed",
    ),
    Row(
        *("torch_geometric 2.8.1", "characterization", "characterization_score, fid+ .8, fid- .2"),
        "harmonic mean of .8 and 1 - .2",
        lambda: 1 / (0.5 / 0.8 + 0.5 / (1 - 0.2)),
        None,
        "both fidelities and their gap are given",
    ),
    Row(
        *("torch_geometric 2.8.1", "curve auc", "fidelity_curve_auc, fid+ 1, 1; fid- 0, .5"),
        "trapezoid of fid+ / (1 - fid-)",
        lambda: (1 / 1 + 1 / 0.5) / 2,
        None,
        "no such curve",
    ),
    *(
        Row(
            *("xplique 2.0.2", kind, f"{kind}, 10 steps, straight line"),
            "trapezoid over the steps",
            lambda: 0.5,
            (lambda: ours(quantus_ext.Deletion(10)))
            if kind == "Deletion"
            else (lambda: ours(quantus_ext.Insertion(10))),
        )
        for kind in ("Deletion", "Insertion")
    ),
)


def _flipped(order: list[int]) -> float:
    values = [1.0, 2.0, 3.0, 10.0]
    for place in order:
        values[place] = float(np.mean(values))
    return sum(values)


def _gelu_slope() -> float:
    at = torch.ones(1, dtype=torch.float64, requires_grad=True)
    return float(torch.autograd.grad(nn.functional.gelu(at).sum(), at)[0])


def _sloped_deletion() -> float:
    left = 1 - np.concatenate([[0], np.cumsum(SLOPED)])[np.linspace(0, N, 21).astype(int)]
    return float(trapezoid(left, np.linspace(0, 1, 21)))


def asked(library: Library, folder: Path, *, here: bool) -> dict[str, float] | str:
    """Return what a library says, or why it says nothing."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    needed = list(library.here or library.requires)
    if here:
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
        install.append("--no-deps")
    done = subprocess.run([*install, *needed], capture_output=True, text=True, check=False)
    if done.returncode:
        return "cannot be installed: " + _last(done.stderr)
    code = COMMON + library.probe + TELL
    done = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=False, cwd=folder
    )
    said = [each for each in done.stdout.splitlines() if each.startswith("FOUND ")]
    if not said:
        return _last(done.stderr)
    found: dict[str, float] = json.loads(said[-1].removeprefix("FOUND "))
    return found or "nothing asked yet"


def _last(text: str) -> str:
    lines = [each.strip() for each in text.splitlines() if each.strip()]
    # No paths of the machine.
    return re.sub(r" \(/.*?\)", "", lines[-1])[:160] if lines else "nothing said"


def cell(value: float | None) -> str:
    """Return a figure as the page has it."""
    return "–" if value is None else f"{value:.4g}"


def page(found: dict[str, dict[str, float] | str]) -> str:
    """Return the page."""
    rows, silent = [], []
    for row in ROWS:
        theirs = found[row.library]
        if isinstance(theirs, dict):
            own = cell(row.ours()) if row.ours is not None else row.why
            rows.append([row.library, row.metric, cell(theirs[row.key]), row.formula, own])
    for library, said in found.items():
        if isinstance(said, str):
            silent.append([library, said.replace("|", "/")])
    header = ["library", "metric and case", "gives", "which is", "this package"]
    told = (
        "What other libraries give for a linear model whose answers are known, each run in an "
        "environment of its own by `python -m benchmarks.neighbours`. The model is 1 − w·x, w·x of "
        'a hundred features that are 1. "Straight line" means equal weights, so that every removal '
        "takes the same from the output and the area is 0.5; 16 is the sum of the mean picture. "
        "`tests/test_neighbours.py` computes each figure again from what it is said to be."
    )
    parts = [
        "# Metrics of the same names elsewhere",
        told,
        markdown_table(header, rows).replace("---:", "---"),
    ]
    if silent:
        # Their figures would need packages that the run had not.
        table = markdown_table(["library", "why"], silent).replace("---:", "---")
        why = (
            "No figure of these is known from a run: the one that wrote this page was `--here`, on "
            "a machine without what they need in turn."
        )
        parts += [
            "## Not run",
            why,
            table,
        ]
    return "\n\n".join(parts)


def main() -> None:
    """Ask each library, and write the page."""
    made = parser("neighbours", __doc__)
    made.add_argument("--here", action="store_true", help="see the packages that are there")
    made.add_argument("--only", help="libraries with this in their name, and no file")
    chosen = options(made)
    libraries = [each for each in LIBRARIES if not chosen.only or chosen.only in each.name]

    def answer(library: Library) -> dict[str, float] | str:
        with tempfile.TemporaryDirectory() as folder:
            said = asked(library, Path(folder) / "env", here=chosen.here)
        print(library.name, said, flush=True)
        return said

    # Most of the time is spent on waiting for packages.
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(answer, libraries)
        found = {library.name: said for library, said in zip(libraries, answers, strict=True)}
    if not chosen.only and not chosen.quick:
        write_atomically(PAGE, page(found) + "\n")


if __name__ == "__main__":
    main()
