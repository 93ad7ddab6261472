"""What is to be known of every metric and neither its class nor a call says: one table of cards.

The tables of the documents are made of it (``python -m docs.write``), Quantus's lists are filled
from it, and tests compare each of its claims with a run.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from math import inf

from quantus.helpers.enums import ScoreDirection

from quantus_ext import metrics
from quantus_ext.metrics.removal_curves import STEPS


@dataclass(frozen=True)
class Paper:
    """Where a metric is from.

    Attributes
    ----------
    authors, title, venue : str
    """

    authors: str
    title: str
    venue: str


@dataclass(frozen=True)
class Card:
    """What is to be known of a metric beside its class.

    Attributes
    ----------
    question : str
        What it measures, in one sentence.
    formula : str
        In one line.
    paper : Paper
    equation : str
        Where the formula stands there; empty where it has no number.
    page : str
        Which of the documents says how to use it.
    range : (float, float)
        The lowest and the highest score, of a model that answers with probabilities where the
        metric reads these.
    evaluations : str
        Rows through the model for each sample, as an expression of arguments of the metric, and of
        ``sizes`` and ``steps``: the different explanation sizes and states of a curve that its
        ``sparsity`` or ``steps`` come to.
    counted : str
        How they come about.
    details : tuple of str
        The keys of ``metric.details``; their meanings are in :data:`DETAILS`.
    carries_input : bool or None
        Whether maps should have the input as a factor; None where an argument or another metric
        says so, or where nothing is known.
    besides : str
        What a call costs besides these rows.
    around : str
        The metric, by its class, around which a wrapper is described.
    """

    question: str
    formula: str
    paper: Paper
    equation: str
    page: str
    range: tuple[float, float]
    evaluations: str
    counted: str
    details: tuple[str, ...]
    carries_input: bool | None
    besides: str = ""
    around: str = ""


INFIDELITY = Paper(
    "C.-K. Yeh, C.-Y. Hsieh, A. S. Suggala, D. I. Inouye, P. Ravikumar",
    "On the (In)fidelity and Sensitivity of Explanations",
    "NeurIPS 2019",
)
F_FIDELITY = Paper(
    "X. Zheng, F. Shirani, Z. Chen, C. Lin, W. Cheng, W. Guo, D. Luo",
    "F-Fidelity: A Robust Framework for Faithfulness Evaluation of Explainable AI",
    "ICLR 2025",
)
REMOVE_AND_RETRAIN = Paper(
    "S. Hooker, D. Erhan, P.-J. Kindermans, B. Kim",
    "A Benchmark for Interpretability Methods in Deep Neural Networks",
    "NeurIPS 2019",
)
M4 = Paper(
    "X. Li, M. Du, J. Chen, Y. Chai, H. Lakkaraju, H. Xiong",
    "M4: A Unified XAI Benchmark for Faithfulness Evaluation of Feature Attribution Methods across "
    "Metrics, Modalities and Models",
    "NeurIPS Datasets and Benchmarks 2023",
)
RISE = Paper(
    "V. Petsiuk, A. Das, K. Saenko",
    "RISE: Randomized Input Sampling for Explanation of Black-box Models",
    "BMVC 2018",
)
INVERSE = Paper(
    "C. Eiras-Franco, A. Hedström, M. M.-C. Höhne",
    "Evaluate with the Inverse: Efficient Approximation of Latent Explanation Quality Distribution",
    "AAAI 2025",
)

_SIZES = (
    *("plus", "minus", "gap", "curve_plus", "curve_minus", "error_plus", "error_minus"),
    *("sparsity", "size"),
)
_CURVE = ("curve", "fractions", "original_score", "baseline_score", "final_drop")

CARDS: dict[str, Card] = {
    "Infidelity": Card(
        question=(
            "How far is the change that the map predicts, `I·Φ`, from that of the output, "
            "`f(x) − f(x−I)`?"
        ),
        formula="`E_I[(I·Φ − (f(x) − f(x−I)))²]`",
        paper=INFIDELITY,
        equation="definition 2.1",
        page="infidelity.md",
        range=(0, inf),
        evaluations="1 + n_perturb_samples",
        counted="the clean input and the draws",
        details=(
            *("infidelity", "rescaled_infidelity", "scale", "faithfulness", "correlation"),
            "n_draws",
        ),
        carries_input=None,
    ),
    "Fidelity": Card(
        question=(
            "Does the answer change without the top s elements (Fid⁺), and stay with them alone "
            "(Fid⁻)?"
        ),
        formula="`1(y = f(x)) − 1(y = f(x without the top s))`, the mean over sizes s",
        paper=F_FIDELITY,
        equation="eq. 1–2",
        page="fidelity.md",
        range=(-1, 1),
        evaluations="1 + 2 * sizes",
        counted="the clean input; each size with and without the top of the map",
        details=_SIZES,
        carries_input=True,
    ),
    "RFidelity": Card(
        question=(
            "Does the answer change without a random part of the top s, and stay without one of "
            "the rest, inputs that are closer to what the model knows?"
        ),
        formula="as Fidelity, the mean over draws that remove `⌊αs⌋` of the top s",
        paper=F_FIDELITY,
        equation="eq. 3–4",
        page="fidelity.md",
        range=(-1, 1),
        evaluations="1 + 2 * sizes * n_samples",
        counted="as Fidelity, so many draws of each size",
        details=_SIZES,
        carries_input=True,
    ),
    "FFidelity": Card(
        question=(
            "What does R-Fidelity say of a copy of the model that was tuned to stand the removal?"
        ),
        formula="as R-Fidelity of the tuned copy, `min(⌊αs⌋, ⌊βt⌋)` removed",
        paper=F_FIDELITY,
        equation="eq. 5–6",
        page="fidelity.md",
        range=(-1, 1),
        evaluations="1 + 2 * sizes * n_samples",
        counted="as R-Fidelity, asked of the tuned copy",
        details=_SIZES,
        carries_input=True,
        besides="a tuning",
    ),
    "ROAR": Card(
        question=(
            "What does Fidelity say of a model that was trained without what the map ranks high?"
        ),
        formula="as Fidelity of the model that was trained so",
        paper=REMOVE_AND_RETRAIN,
        equation="",
        page="fidelity.md",
        range=(-1, 1),
        evaluations="1 + 2 * sizes",
        counted="as Fidelity, asked of the retrained model",
        details=_SIZES,
        carries_input=None,
        besides="a training",
    ),
    "MoRF": Card(
        question="How far does the output drop as the most relevant elements go first?",
        formula="`1/(L+1) Σ_k (f(x⁰) − f(xᵏ))` over even steps, the most relevant elements first",
        paper=M4,
        equation="",
        page="removal_curves.md",
        range=(-1, 1),
        evaluations="1 + steps",
        counted="the clean input and a state a step",
        details=_CURVE,
        carries_input=True,
    ),
    "LeRF": Card(
        question="How far does the output drop as the least relevant elements go first?",
        formula="the same, the least relevant first",
        paper=M4,
        equation="",
        page="removal_curves.md",
        range=(-1, 1),
        evaluations="1 + steps",
        counted="as MoRF",
        details=_CURVE,
        carries_input=True,
    ),
    "ABPC": Card(
        question=(
            "How much further does the output drop as the most relevant elements go first than as "
            "the least relevant do?"
        ),
        formula="`MoRF − LeRF`, about 0 for a random order",
        paper=M4,
        equation="",
        page="removal_curves.md",
        range=(-1, 1),
        evaluations="2 * steps",
        counted="both curves, which share their ends",
        details=(
            *("morf", "lerf", "curve_morf", "curve_lerf", "fractions"),
            *("original_score", "baseline_score", "final_drop"),
        ),
        carries_input=True,
    ),
    "Deletion": Card(
        question="How much of the output is left as the most relevant elements go?",
        formula="area under `f(xᵏ)` over the share removed, by the trapezoid rule",
        paper=RISE,
        equation="",
        page="removal_curves.md",
        range=(0, 1),
        evaluations="1 + steps",
        counted="as MoRF",
        details=_CURVE,
        carries_input=True,
    ),
    "Insertion": Card(
        question="How much of the output is there as the most relevant elements come back?",
        formula="area under `f` as the most relevant elements are restored to a baseline",
        paper=RISE,
        equation="",
        page="removal_curves.md",
        range=(0, 1),
        evaluations="1 + steps",
        counted="as MoRF",
        details=(*_CURVE[:-1], "final_rise"),
        carries_input=True,
    ),
    "PScore": Card(
        question=(
            "Does the map agree with the consensus of other good models, by the same explainer?"
        ),
        formula="cosine with the mean of the unit-length maps of other good models",
        paper=M4,
        equation="",
        page="removal_curves.md",
        range=(-1, 1),
        evaluations="1",
        counted="the clean input; the explainer runs on every other model",
        details=("similarity",),
        carries_input=None,
        besides="explanations",
    ),
    "SynScore": Card(
        question="Does the map rank what was planted above the rest?",
        formula="AUROC (or average precision) of the map against what was planted",
        paper=M4,
        equation="",
        page="removal_curves.md",
        range=(0, 1),
        evaluations="0",
        counted="the model is not asked",
        details=("auroc", "ap", "planted"),
        carries_input=None,
    ),
    "QGE": Card(
        question=(
            "Is a score of any metric, also Quantus's own, better than that of the inverse "
            "explanation?"
        ),
        formula="`q(e) − q(e_inv)`, turned where lower is better",
        paper=INVERSE,
        equation="eq. 4–5",
        page="qge.md",
        range=(-inf, inf),
        evaluations="1 + n_perturb_samples",
        counted="as `Infidelity`: the map and its inverse share their draws",
        details=("score", "reference", "references"),
        carries_input=None,
        around="Infidelity",
    ),
}
"""By the class's name, in the order of the documents."""

DETAILS: dict[str, str] = {
    "infidelity": "the score without `rescale`",
    "rescaled_infidelity": "that of the best multiple of the map",
    "scale": "that multiple, `β = E[ab] / E[a²]`",
    "faithfulness": "the share of the output's change that the best positive multiple predicts",
    "correlation": "of the predicted with the real changes, over the draws",
    "n_draws": "how many there were",
    "plus": "Fid⁺, the mean over sizes",
    "minus": "Fid⁻, the mean over sizes",
    "gap": "Fid⁺ − Fid⁻",
    "curve_plus": "Fid⁺ of each size",
    "curve_minus": "Fid⁻ of each size",
    "error_plus": "the standard error of each `curve_plus`",
    "error_minus": "the standard error of each `curve_minus`",
    "sparsity": "explanation sizes, as they were given",
    "size": "the elements that they come to",
    "curve": "the output at each of `fractions`",
    "fractions": "the shares of the elements that are really removed (of Insertion: restored)",
    "original_score": "the output for the input itself",
    "baseline_score": "the output with everything removed",
    "final_drop": "`original_score − baseline_score`",
    "final_rise": "`original_score − baseline_score`, of Insertion",
    "morf": "MoRF",
    "lerf": "LeRF",
    "curve_morf": "the output as the most relevant go first",
    "curve_lerf": "the output as the least relevant go first",
    "similarity": "the cosine with the map of each other model",
    "auroc": "the area under the ROC curve",
    "ap": "the average precision",
    "planted": "the share of the elements that are marked",
    "score": "what the metric says of the map",
    "reference": "what it says of the inverse, or the mean over the references",
    "references": "what it says of each of them",
}
"""What the keys of ``metric.details`` mean."""


def shown_name(name: str) -> str:
    """Return how a metric is made, by the name of its class; a wrapper with what it is around."""
    around = CARDS[name].around
    return f"{name}({around}())" if around else name


def direction(name: str) -> ScoreDirection:
    """Return which scores of a metric are better, by the name of its class, made by default."""
    found: ScoreDirection = getattr(metrics, name).score_direction
    return found


def cost(name: str, **arguments: int) -> int:
    """Return the rows a sample of a metric, by the name of its class.

    Parameters
    ----------
    name : str
    **arguments : int
        What its card's expression names, where it is not the default. By default each sparsity is a
        size of its own, and each step a state.

    Examples
    --------
    >>> from quantus_ext.cards import CARDS, cost
    >>> CARDS["RFidelity"].evaluations
    '1 + 2 * sizes * n_samples'
    >>> cost("RFidelity"), cost("RFidelity", n_samples=10)
    (1901, 381)
    """
    card = CARDS[name]
    parameters = inspect.signature(getattr(metrics, card.around or name)).parameters
    given = {parameter.name: parameter.default for parameter in parameters.values()}
    if "sparsity" in given:
        given["sizes"] = len(given["sparsity"])
    if "steps" in given:
        given["steps"] = STEPS
    # An expression of this file, so that what is written is what is tested.
    return int(eval(card.evaluations, {"__builtins__": {}}, {**given, **arguments}))
