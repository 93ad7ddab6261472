"""One card per metric: facts that neither its class nor a call tells.

The tables in the documents (``python -m docs.write``) and Quantus's metric lists are made from the
cards. Tests compare every claim with a run.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from quantus.helpers.enums import ScoreDirection

from quantus_ext import metrics
from quantus_ext.metrics.removal_curves import STEPS


@dataclass(frozen=True)
class Paper:
    """The paper that introduced a metric.

    Attributes
    ----------
    authors, title, venue : str
    """

    authors: str
    title: str
    venue: str


@dataclass(frozen=True)
class Card:
    """Facts about a metric.

    Attributes
    ----------
    question : str
        What it measures, in one sentence.
    formula : str
        In one line.
    paper : Paper
    equation : str
        The number of the formula in the paper; empty if it has none.
    page : str
        The document that explains how to use it.
    evaluations : str
        Rows sent through the model per sample, as an expression of the metric's arguments and of
        ``sizes`` and ``steps``, the numbers of distinct explanation sizes and curve points.
    counted : str
        What these rows are.
    details : tuple of str
        The keys of ``metric.details``; :data:`DETAILS` has their meanings.
    carries_input : bool or None
        Whether maps should include the input as a factor; None if it depends on an argument or on
        another metric, or is unknown.
    besides : str
        The cost of a call besides these rows.
    around : str
        For a wrapper: the class of the metric that it is described with.
    """

    question: str
    formula: str
    paper: Paper
    equation: str
    page: str
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
            "How far is the output change that the map predicts, `I·Φ`, from the actual one, "
            "`f(x) − f(x−I)`?"
        ),
        formula="`E_I[(I·Φ − (f(x) − f(x−I)))²]`",
        paper=INFIDELITY,
        equation="definition 2.1",
        page="infidelity.md",
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
            "Does the prediction change without the top s elements (Fid⁺), and stay with only "
            "those (Fid⁻)?"
        ),
        formula="`1(y = f(x)) − 1(y = f(x without the top s))`, averaged over sizes s",
        paper=F_FIDELITY,
        equation="eq. 1–2",
        page="fidelity.md",
        evaluations="1 + 2 * sizes",
        counted="the clean input; per size, one row for Fid⁺ and one for Fid⁻",
        details=_SIZES,
        carries_input=True,
    ),
    "RFidelity": Card(
        question=(
            "Does the prediction change without a random part of the top s, and stay without a "
            "random part of the rest?"
        ),
        formula="as Fidelity, averaged over draws that remove `⌊αs⌋` of the top s",
        paper=F_FIDELITY,
        equation="eq. 3–4",
        page="fidelity.md",
        evaluations="1 + 2 * sizes * n_samples",
        counted="as Fidelity, with `n_samples` draws per row",
        details=_SIZES,
        carries_input=True,
    ),
    "FFidelity": Card(
        question=(
            "What is R-Fidelity for a copy of the model that was fine-tuned to handle removed "
            "elements?"
        ),
        formula="R-Fidelity of the fine-tuned copy, removing `min(⌊αs⌋, ⌊βt⌋)`",
        paper=F_FIDELITY,
        equation="eq. 5–6",
        page="fidelity.md",
        evaluations="1 + 2 * sizes * n_samples",
        counted="as R-Fidelity, on the fine-tuned copy",
        details=_SIZES,
        carries_input=True,
        besides="fine-tuning",
    ),
    "ROAR": Card(
        question=(
            "What is Fidelity for a model that was trained without the elements that the map "
            "ranks highest?"
        ),
        formula="Fidelity of the retrained model",
        paper=REMOVE_AND_RETRAIN,
        equation="",
        page="fidelity.md",
        evaluations="1 + 2 * sizes",
        counted="as Fidelity, on the retrained model",
        details=_SIZES,
        carries_input=None,
        besides="training",
    ),
    "MoRF": Card(
        question="How far does the output drop when the most relevant elements are removed first?",
        formula="`1/(L+1) Σ_k (f(x⁰) − f(xᵏ))` over even steps, most relevant first",
        paper=M4,
        equation="",
        page="removal_curves.md",
        evaluations="1 + steps",
        counted="the clean input and one row per step",
        details=_CURVE,
        carries_input=True,
    ),
    "LeRF": Card(
        question="How far does the output drop when the least relevant elements are removed first?",
        formula="as MoRF, least relevant first",
        paper=M4,
        equation="",
        page="removal_curves.md",
        evaluations="1 + steps",
        counted="as MoRF",
        details=_CURVE,
        carries_input=True,
    ),
    "ABPC": Card(
        question=(
            "How much larger is the drop when the most relevant elements are removed first than "
            "when the least relevant are?"
        ),
        formula="`MoRF − LeRF`, about 0 for a random order",
        paper=M4,
        equation="",
        page="removal_curves.md",
        evaluations="2 * steps",
        counted="both curves, which share their end points",
        details=(
            *("morf", "lerf", "curve_morf", "curve_lerf", "fractions"),
            *("original_score", "baseline_score", "final_drop"),
        ),
        carries_input=True,
    ),
    "Deletion": Card(
        question="How much of the output remains while the most relevant elements are removed?",
        formula="area under `f` over the fraction removed, most relevant first (trapezoidal rule)",
        paper=RISE,
        equation="",
        page="removal_curves.md",
        evaluations="1 + steps",
        counted="as MoRF",
        details=_CURVE,
        carries_input=True,
    ),
    "Insertion": Card(
        question="How much of the output returns while the most relevant elements are restored?",
        formula="area under `f` over the fraction restored, most relevant first (trapezoidal rule)",
        paper=RISE,
        equation="",
        page="removal_curves.md",
        evaluations="1 + steps",
        counted="as MoRF",
        details=(*_CURVE[:-1], "final_rise"),
        carries_input=True,
    ),
    "PScore": Card(
        question="Does the map agree with the same explainer's maps of other good models?",
        formula="cosine similarity to the mean of the unit-length maps of the other models",
        paper=M4,
        equation="",
        page="removal_curves.md",
        evaluations="1",
        counted="the clean input; the explainer also runs on every other model",
        details=("similarity",),
        carries_input=None,
        besides="explanations",
    ),
    "SynScore": Card(
        question="Does the map rank the planted ground truth above everything else?",
        formula="AUROC (or average precision) of the map against the planted ground truth",
        paper=M4,
        equation="",
        page="removal_curves.md",
        evaluations="0",
        counted="the model is not evaluated",
        details=("auroc", "ap", "planted"),
        carries_input=None,
    ),
    "QGE": Card(
        question="Does any metric, including Quantus's own, score the map better than its inverse?",
        formula="`q(e) − q(e_inv)`, with the sign flipped if lower is better",
        paper=INVERSE,
        equation="eq. 4–5",
        page="qge.md",
        evaluations="1 + n_perturb_samples",
        counted="as `Infidelity`: the map and its inverse share their draws",
        details=("score", "reference", "references"),
        carries_input=None,
        around="Infidelity",
    ),
}
"""The cards by class name, in the order of the documents."""

DETAILS: dict[str, str] = {
    "infidelity": "the infidelity without rescaling",
    "rescaled_infidelity": "the infidelity of the best multiple of the map",
    "scale": "the factor of that multiple, `β = E[ab] / E[a²]`",
    "faithfulness": "the share of the output change that the best positive multiple predicts",
    "correlation": "the correlation of predicted and actual changes over the draws",
    "n_draws": "the number of draws",
    "plus": "Fid⁺, averaged over sizes",
    "minus": "Fid⁻, averaged over sizes",
    "gap": "Fid⁺ − Fid⁻",
    "curve_plus": "Fid⁺ for each size",
    "curve_minus": "Fid⁻ for each size",
    "error_plus": "the standard error of each value of `curve_plus`",
    "error_minus": "the standard error of each value of `curve_minus`",
    "sparsity": "the explanation sizes, as the fractions that were passed",
    "size": "the explanation sizes in elements",
    "curve": "the output at each of `fractions`",
    "fractions": "the fractions of elements that were actually removed (for Insertion: restored)",
    "original_score": "the output for the unchanged input",
    "baseline_score": "the output with all elements removed",
    "final_drop": "`original_score − baseline_score`",
    "final_rise": "`original_score − baseline_score`, for Insertion",
    "morf": "MoRF",
    "lerf": "LeRF",
    "curve_morf": "the output while the most relevant elements are removed first",
    "curve_lerf": "the output while the least relevant elements are removed first",
    "similarity": "the cosine similarity to the map of each other model",
    "auroc": "the area under the ROC curve",
    "ap": "the average precision",
    "planted": "the share of elements that `s_batch` marks",
    "score": "the inner metric's score of the map",
    "reference": "its score of the inverse, or its mean score of the references",
    "references": "its score of each reference",
}
"""The meaning of each key of ``metric.details``."""


def shown_name(name: str) -> str:
    """Return the name of a metric as shown in documents; a wrapper with its inner metric."""
    around = CARDS[name].around
    return f"{name}({around}())" if around else name


def direction(name: str) -> ScoreDirection:
    """Return whether lower or higher scores of a metric are better, by the name of its class."""
    found: ScoreDirection = getattr(metrics, name).score_direction
    return found


def score_range(name: str) -> tuple[float, float]:
    """Return the lowest and the highest score of a metric, by the name of its class."""
    found: tuple[float, float] = getattr(metrics, name).score_range
    return found


def cost(name: str, **arguments: int) -> int:
    """Return a metric's evaluations per sample.

    Parameters
    ----------
    name : str
        The name of its class.
    **arguments : int
        Values of names in its card's expression that differ from the defaults. By default all
        sparsities and all steps are distinct.

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
    # `eval`, so that the documents print the very expression that is tested.
    return int(eval(card.evaluations, {"__builtins__": {}}, {**given, **arguments}))
