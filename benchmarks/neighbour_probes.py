"""What each neighbour is asked, in an environment of its own, where this package is not."""

from __future__ import annotations

from typing import NamedTuple


class Library(NamedTuple):
    """A library, what it needs, and what it is asked."""

    name: str
    requires: tuple[str, ...]
    probe: str
    here: tuple[str, ...] = ()
    """What ``--here`` installs, without what that needs in turn; by default all."""
    bare: tuple[str, ...] = ()
    """What is installed without what it needs in turn: its pins have no builds for this Python."""


COMMON = """
import json, random, warnings
from importlib import metadata
warnings.simplefilter("ignore")
import numpy as np, torch
from torch import nn

class Linear(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.as_tensor(w, dtype=torch.float32).flatten())
        self.eval()
    def forward(self, x):
        y = x.flatten(1) @ self.w[: x[0].numel()]
        return torch.stack([1 - y, y], 1)

N = 100
even, sloped = np.full(N, 1 / N), np.linspace(2, 0, N) / N
straight = Linear(even)
x = torch.ones(1, 1, 10, 10)
order = torch.from_numpy(np.random.default_rng(0).permutation(N).astype("float32"))
order = order.reshape(1, 1, 10, 10)
exact = torch.from_numpy(sloped.astype("float32")).reshape(1, 1, 10, 10)
flat = torch.full_like(order, 0.5)
wide = 3 * order / order.max()
one = torch.tensor([1])
found = {}

def ones(x):
    return torch.ones(len(x), dtype=torch.int64)

GENERATORS = {"python": random.seed, "numpy": np.random.seed, "torch": torch.manual_seed}

def seeded(other=None):
    for name, seed in GENERATORS.items():
        seed(int(name == other))

def habits(key, score, batches=True):
    # score(w, x, a): a score for each sample, of the map a for the model of weights w.
    def both():
        return [float(score(sloped, wide, a)[0]) for a in (order, flat)]
    def same(a, b):
        return np.allclose(a, b, rtol=1e-5, atol=1e-14, equal_nan=True)
    for name, w in {"falling": sloped, "rising": sloped[::-1].copy()}.items():
        seeded()
        found[f"{key} {name}"] = score(w, x, flat)[0]
    seeded()
    first = both()
    seeded()
    if same(first, both()):
        moved = []
        for name in GENERATORS:
            seeded(name)
            if not same(first, both()):
                moved.append(name + "'s")
        found[key + " seed"] = ", ".join(moved) or "none"
    else:
        found[key + " seed"] = "its own, new each time"
    if batches:
        seeded()
        alone = float(score(sloped, x, order)[0])
        seeded()
        pair = torch.cat([wide, x]), torch.cat([order.flip(-1), order])
        beside = float(score(sloped, *pair)[-1])
        found[key + " batch"] = "as alone" if same(alone, beside) else "not as alone"
"""
TELL = """
ran = []
for name in ("torch", "tensorflow", "paddlepaddle", "numpy"):
    try:
        ran.append(name + " " + metadata.version(name))
    except metadata.PackageNotFoundError:
        pass
found["environment"] = ", ".join(ran)
told = {name: value if isinstance(value, str) else float(value) for name, value in found.items()}
print("FOUND", json.dumps(told))
"""

LIBRARIES = (
    Library(
        "quantus 0.6.0",
        # Its areas call numpy.trapz, which 2.4 has no more.
        ("quantus==0.6.0", "captum==0.9.0", "setuptools<81", "numpy<2.4"),
        """
import quantus
def table(w):
    return nn.Sequential(nn.Flatten(), Linear(w)).eval()
four = torch.tensor([[1.0, 2.0, 3.0, 10.0]]).numpy().reshape(1, 1, 4)
label = np.array([1])
plain = {"abs": False, "normalise": False, "disable_warnings": True}
call = {"channel_first": True, "softmax": False}
for name, up in {"up": [1, 2, 3, 4], "down": [4, 3, 2, 1]}.items():
    flipping = quantus.PixelFlipping(perturb_baseline="mean", **plain)
    a = np.array(up, dtype="float32").reshape(1, 1, 4)
    found["mean " + name] = flipping(table(np.ones(4)), four, label, a, **call)[0][-1]
flipping = quantus.PixelFlipping(perturb_baseline="black", **plain)
found["black"] = flipping(table(even), x.numpy(), label, order.numpy(), **call)[0][-1]
for name, sign in {"exact": 1, "turned": -1}.items():
    estimate = quantus.Monotonicity(**plain)
    scores = estimate(table(sloped), x.numpy(), label, (sign * exact).numpy(), **call)
    found["monotonicity " + name] = scores[0]
ig = quantus.explain(straight, x.numpy(), label, method="IntegratedGradients")
found["integrated gradients"] = ig.sum()
def score_with(kind, **options):
    def score(w, x, a):
        if len(a.unique()) == 1:
            # Refused alone.
            x, a = torch.cat([x, x]), torch.cat([a, order])
        metric = kind(perturb_baseline=0.0, **options, **plain)
        return metric(table(w), x.numpy(), ones(x).numpy(), a.numpy(), **call)
    return score
tens = {"features_in_step": 10}
area = score_with(quantus.PixelFlipping, return_auc_per_sample=True, **tens)
habits("PixelFlipping", area)
habits("FaithfulnessEstimate", score_with(quantus.FaithfulnessEstimate, **tens))
drawn = {"subset_size": 20, "nr_runs": 50}
habits("FaithfulnessCorrelation", score_with(quantus.FaithfulnessCorrelation, **drawn))
""",
    ),
    Library(
        "captum 0.9.0",
        ("captum==0.9.0",),
        """
from captum.attr import DeepLift, IntegratedGradients
from captum.metrics import infidelity
model = Linear(sloped)
units = torch.eye(N).reshape(N, 1, 1, 10, 10)
def score(a, unit):
    change = lambda inputs: (unit, inputs - unit)
    return infidelity(model, change, x, a, target=1, n_perturb_samples=1)
for name, scale in {"exact": 1, "zeros": 0, "turned": -1}.items():
    values = [score(scale * exact, unit) for unit in units]
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
from pnpxai.evaluator.metrics import Complexity, LeRF, MoRF, MuFidelity
def score_with(kind, **options):
    return lambda w, x, a: kind(Linear(w), **options).evaluate(x, ones(x), a)
linear = {"prob_fn": lambda outputs: outputs}
for kind in (MoRF, LeRF):
    found[kind.__name__] = score_with(kind, **linear)(even, x, order)[0]
found["uniform"] = score_with(Complexity)(even, x, flat)[0]
habits("MoRF", score_with(MoRF, **linear))
habits("MuFidelity", score_with(MuFidelity, grid_size=10))
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
def summary(w, x, a):
    metric = DeletionInsertionMetric(Maps(Linear(w), a[:, 0]))
    metric.update(x, 1)
    return metric.summary()
for key, value in summary(even, x, order).items():
    found[key] = value
found["sloped deletion_auc"] = summary(sloped, x, exact)["deletion_auc"]
habits("deletion", lambda w, x, a: [summary(w, x, a)["deletion_auc"]], batches=False)
""",
    ),
    Library(
        "attribench 0.1.9",
        (
            "torchvision",
            "h5py",
            "krippendorff",
            "opencv-python-headless",
            "pyyaml",
            "scikit-image",
            "scikit-learn",
            "seaborn",
            "statsmodels",
            "tqdm",
        ),
        """
from attribench.functional.metrics.deletion._deletion import _deletion_batch
from attribench.functional.metrics.infidelity import _infidelity, _perturbation_generator
from attribench.masking.image import ConstantImageMasker
def deletion(w, x, a, steps=11):
    maskers = {"zero": ConstantImageMasker("pixel")}
    asked = ["linear"], "morf", 0.0, 1.0, steps
    return _deletion_batch(x, ones(x), Linear(w), a, maskers, *asked)["zero"]["linear"].mean(1)
def infidelity_of(kind, *options):
    def score(w, x, a):
        given = {"map": a}, {"change": kind(*options)}, 50, ["linear"], torch.device("cpu")
        made = _infidelity._infidelity_batch(Linear(w), x, ones(x), *given)
        return made["map"]["change"]["linear"][:, 0]
    return score
for steps in (11, 100):
    found[f"deletion {steps}"] = deletion(even, x, order, steps)[0]
squares = infidelity_of(_perturbation_generator.SquarePerturbationGenerator, 5)
found["zeros alone"] = squares(even, x, 0 * order)[0]
found["zeros beside"] = squares(even, torch.cat([x, wide]), torch.cat([0 * order, order]))[0]
habits("deletion", deletion)
habits("squares", squares)
habits("noise", infidelity_of(_perturbation_generator.GaussianPerturbationGenerator, 0.5))
""",
        ("attribench==0.1.9", "h5py", "statsmodels", "patsy"),
        ("attribench==0.1.9",),
    ),
    Library(
        "torchxai-tools 0.1.3",
        ("torchxai-tools==0.1.3",),
        """
from torchxai.data_types import SingleTargetAcrossBatch
from torchxai.metrics import abpc, faithfulness_corr, infidelity
target = SingleTargetAcrossBatch(index=1)
def score_with(metric, **options):
    def score(w, x, a):
        given = {"baselines": torch.zeros_like(x), "target": target, **options}
        return metric(Linear(w), x, a, **given)
    return score
drawn = {"n_perturb_samples": 50}
for name, scale in {"exact": 1, "turned": -1, "hundredfold": 100}.items():
    seeded()
    found["infidelity " + name] = score_with(infidelity, **drawn)(sloped, x, scale * exact)[0]
quiet = {"show_progress": False}
bins = score_with(abpc, total_feature_bins=10, **quiet)
habits("abpc", lambda w, x, a: bins(w, x, a)[:, -1])
habits("infidelity", score_with(infidelity, **drawn))
habits("faithfulness_corr", score_with(faithfulness_corr, **drawn, **quiet))
""",
    ),
    Library(
        "grad-cam 1.5.7",
        ("grad-cam==1.5.7",),
        """
from pytorch_grad_cam.metrics.road import ROADMostRelevantFirst
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
def road(w, x, a, **options):
    targets = [ClassifierOutputTarget(1)] * len(x)
    return ROADMostRelevantFirst(percentile=80)(x, a[:, 0].numpy(), targets, Linear(w), **options)
few = torch.zeros(1, 1, 10, 10)
few[0, 0, 0, :5] = torch.tensor([5.0, 4, 3, 2, 1])
for name, cam in {"many zeros": few, "no ties": order}.items():
    scores, changed = road(even, x, cam, return_visualization=True)
    found["imputed " + name] = ((changed - x).abs() > 0).float().mean()
habits("road", road)
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
        ("xplique==2.0.2",),
        """
import tensorflow as tf
from xplique.metrics import AverageDropMetric, Complexity, Deletion, Insertion
from xplique.metrics import MuFidelity, Sparseness
GENERATORS["tensorflow"] = tf.random.set_seed
labels = np.array([[0.0, 1.0]], "float32")
def linear(w):
    layers = tf.keras.layers
    net = tf.keras.Sequential([tf.keras.Input((10, 10, 1)), layers.Flatten(), layers.Dense(2)])
    net.layers[-1].set_weights([np.stack([-w, w], 1), np.array([1.0, 0.0])])
    return net
def score_with(kind, **options):
    def score(w, x, a):
        pictures = x.numpy().transpose(0, 2, 3, 1)
        return [kind(linear(w), pictures, labels, **options)(a.numpy()[:, 0])]
    return score
mu = score_with(MuFidelity, grid_size=10)
for kind in (Deletion, Insertion):
    found[kind.__name__] = score_with(kind)(even, x, order)[0]
found["3 steps"] = score_with(Deletion, steps=3)(even, x, order)[0]
found["half"] = score_with(Deletion, max_percentage_perturbed=0.5)(even, x, order)[0]
seeded()
for name, a in {"exact": exact, "turned": -exact, "zeros": 0 * exact}.items():
    found["Deletion " + name] = score_with(Deletion)(sloped, x, a)[0]
    found["MuFidelity " + name] = mu(sloped, x, a)[0]
for name, a in {"exact": exact, "turned": -exact, "flat": flat}.items():
    found["drop " + name] = score_with(AverageDropMetric)(sloped, x, a)[0]
found["complexity"] = Complexity()(flat.numpy()[0])
found["sparseness"] = Sparseness()(flat.numpy()[0])
habits("Deletion", score_with(Deletion), batches=False)
habits("MuFidelity", mu, batches=False)
""",
    ),
    Library(
        "InterpretDL 0.8.0",
        (
            "paddlepaddle",
            "ipython<9",
            "matplotlib",
            "opencv-python-headless",
            "requests",
            "scikit-image",
            "scikit-learn",
            "tqdm",
        ),
        """
from interpretdl import DeletionInsertion, Infidelity, Perturbation
import paddle
# Pixels of 127 are what removed ones become: 0 here, and 255 is 1.
mean, std = (
    np.array(each).reshape(3, 1, 1) for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
)
def asked(kind, w):
    def linear(data):
        grey = ((data * std + mean) * 255 - 127).mean(1) / 128
        y = grey.reshape(len(grey), -1) @ w
        return np.stack([1 - y, y], 1)
    metric = kind(paddle.nn.Identity(), "cpu")
    metric.predict_fn = linear
    return metric
def picture(x):
    return (x[0, 0].numpy() * 128 + 127).clip(0, 255).astype("uint8")[None, :, :, None].repeat(3, 3)
def score_with(kind, key):
    steps = {"resize_to": 10, "limit_number_generated_samples": 10}
    def score(w, x, a):
        return [asked(kind, w).evaluate(picture(x), a[0].numpy(), **steps)[key]]
    return score
morf = score_with(Perturbation, "MoRF_score")
kinds = {
    "MoRF": morf,
    "LeRF": score_with(Perturbation, "LeRF_score"),
    "deletion": score_with(DeletionInsertion, "deletion_score"),
    "insertion": score_with(DeletionInsertion, "insertion_score"),
}
for key, score in kinds.items():
    found[key] = score(even, x, order)[0]
    habits(key, score, batches=False)
found["MoRF exact"] = morf(sloped, x, exact)[0]
found["MoRF turned"] = morf(sloped, x, -exact)[0]
found["MoRF channels"] = morf(sloped, x, -exact.repeat(1, 3, 1, 1))[0]
w = np.linspace(2, 0, 64 * 64) / 64**2
maps = {"exact": w, "turned": -w, "hundredfold": 100 * w, "zeros": 0 * w}
large = {"resize_to": 64}
bright, dim = (picture(torch.full((1, 1, 64, 64), value)) for value in (1.0, 0.5))
for name, a in maps.items():
    a = a.reshape(64, 64)
    found["infidelity " + name] = asked(Infidelity, w).evaluate(bright, a, **large)
metric = asked(Infidelity, w)
metric.evaluate(bright, a, **large)
found["infidelity next"] = metric.evaluate(dim, a, **large)
found["infidelity again"] = metric.evaluate(dim, a, recompute=True, **large)
""",
        bare=("interpretdl==0.8.0",),
    ),
    Library(
        "ferret-xai 0.4.2",
        # It needs numpy below 2, for which later builds are not made.
        ("ferret-xai==0.4.2", "pyarrow<21"),
        """
from types import SimpleNamespace
from ferret.evaluators import faithfulness_measures as measures
from ferret.explainers.explanation import Explanation
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
names = [name + "_token" for name in ("pad", "unk", "cls", "sep", "mask")]
special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
def asked(kind, w, a):
    # A text of as many words as there are weights, with the probability of the words left.
    words = [f"word{i}" for i in range(len(w))]
    ids = {word: i for i, word in enumerate(special + words)}
    made = Tokenizer(models.WordLevel(ids, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    around = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=around)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **dict(zip(names, special)))
    weights = torch.tensor([0.0] * len(special) + list(w), dtype=torch.float32)
    def model(input_ids, **rest):
        y = weights[input_ids].sum(1)
        return SimpleNamespace(logits=torch.stack([1 - y, y], 1).clamp(0, 1).log())
    model.device = torch.device("cpu")
    text = " ".join(words)
    tokens = ["[CLS]", *words, "[SEP]"]
    explained = Explanation(text, tokens, np.array([0.0, *a, 0.0]), "", 1)
    return kind(model, tokenizer).compute_evaluation(explained, 1).score
comprehensiveness = measures.AOPC_Comprehensiveness_Evaluation
sufficiency = measures.AOPC_Sufficiency_Evaluation
ten, down = np.full(10, 0.1), np.arange(10, 0, -1.0)
fall = np.linspace(2, 0, 10) / 10
for name, kind in {"comprehensiveness": comprehensiveness, "sufficiency": sufficiency}.items():
    found[name] = asked(kind, ten, down)
    found[name + " five"] = asked(kind, np.full(5, 0.2), down[:5])
    found[name + " three"] = asked(kind, ten, down - 7)
    found[name + " negative"] = asked(kind, ten, -down)
    def score(w, x, a):
        words = (each.reshape(10, 10) for each in (w, a[0].numpy()))
        weights, values = (each.sum(1) for each in words)
        return [asked(kind, weights, values)]
    habits(name, score, batches=False)
for name, a in {"exact": fall, "turned": -fall}.items():
    found["tau " + name] = asked(measures.TauLOO_Evaluation, fall, a)
found["tau even"] = asked(measures.TauLOO_Evaluation, ten, down)
""",
    ),
    Library(
        "autotimm 0.7.37",
        ("autotimm==0.7.37",),
        """
from autotimm.interpretation.metrics import ExplanationMetrics
class Log(nn.Module):
    # Its softmax gives back the outputs of the linear model.
    def __init__(self, w):
        super().__init__()
        self.linear = Linear(w)
    def forward(self, x): return self.linear(x).clamp(0, 1).log()
class Maps:
    def __init__(self, a): self.maps = [each.numpy().reshape(10, 10) for each in a]
    def explain(self, image, target_class=None): return self.maps.pop(0)
def asked(kind, w, x, a, key="auc", steps=10):
    metrics = ExplanationMetrics(Log(w), Maps(a), use_cuda=False)
    return getattr(metrics, kind)(x, 1, steps=steps, baseline="black")[key]
for steps in (10, 60, 200):
    found[f"deletion {steps}"] = asked("deletion", even, x, order, steps=steps)
found["final_drop 60"] = asked("deletion", even, x, order, "final_drop", 60)
found["insertion 60"] = asked("insertion", even, x, order, steps=60)
found["deletion half"] = asked("deletion", even, x / 2, order)
found["deletion exact"] = asked("deletion", sloped, x, exact)
found["deletion turned"] = asked("deletion", sloped, x, -exact)
for name, second in {"same": exact, "turned": -exact}.items():
    metrics = ExplanationMetrics(Log(sloped), Maps([exact, second]), use_cuda=False)
    found["randomised " + name] = metrics.model_parameter_randomization_test(x, 1)["passes"]
def score(w, x, a):
    # Outputs that are probabilities.
    return [asked("deletion", w, x / 3, a)]
habits("deletion", score, batches=False)
""",
    ),
    Library("OpenXAI", ("openxai",), "import openxai\n"),
)
