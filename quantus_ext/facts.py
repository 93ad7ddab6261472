"""What is known of each metric that neither its class nor a call tells: one record a metric.

Cards (:mod:`quantus_ext.card`), the tables in the documents (``python -m docs.write``) and
Quantus's metric lists are made from it. Tests compare every claim with a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple


@dataclass(frozen=True)
class Paper:
    """The paper that introduced a metric.

    Attributes
    ----------
    authors, title, venue : str
    is_journal : bool
        Whether the venue is a journal, and not a conference.
    """

    authors: str
    title: str
    venue: str
    is_journal: bool = False


class Neighbour(NamedTuple):
    """A metric of another package that asks the same question.

    Attributes
    ----------
    name : str
    how : str
        How its numbers become those of this package, or why they do not.
    converts : bool
        Whether they do.
    """

    name: str
    how: str
    converts: bool


class LinearScores(NamedTuple):
    """Mean scores of four maps of a linear model, with a metric's default arguments.

    The model has two outputs, ``-w·x`` and ``w·x``, of twelve features, with weights from 3 to 0.1;
    32 samples are explained for the class that it predicts. The exact map is ``±w·x`` for metrics
    that want the input as a factor, otherwise ``±w``.

    Attributes
    ----------
    exact, negative, constant, noise : float
        Of the exact map, its negative, a map of ones, and normal noise.
    """

    exact: float
    negative: float
    constant: float
    noise: float


Ties = Literal["at random", "count half", "do not matter", "not verified"]
Removed = Literal[
    "0",
    "the sample's minimum",
    "what the map, scaled to [0, 1], leaves of it",
    "nothing is removed",
    "not verified",
]

UNKNOWN: Final = "not verified"

MODALITIES = ("image", "volume", "series", "table", "data frame", "text", "prompt", "graph")


@dataclass(frozen=True)
class Facts:
    """What is known of a metric; what is not given is not verified.

    Attributes
    ----------
    question : str
        What it measures, in one sentence.
    reading : str
        What a score of 0.3 says.
    formula : str
        In one line.
    paper : Paper or None
    equation : str
        The number of the formula in the paper; empty if it has none.
    departures : str
        Where the metric departs from the paper, and why; empty if nowhere.
    page : str
        The document that explains how to use it.
    unit : str
        Of a score.
    linear : LinearScores or None
        What maps of a linear model score.
    removed : {"0", "the sample's minimum", "what the map, scaled to [0, 1], leaves of it", \
"nothing is removed", "not verified"}
        What an element becomes where it is removed, by default.
    ties : {"at random", "count half", "do not matter", "not verified"}
        What becomes of elements of equal value, as in a constant map. ``"at random"``: the seed
        says which of them is ranked first.
    draws : bool or None
        Whether a score is a mean over random draws, which the seed fixes.
    evaluations : str
        Rows sent through the model per sample, as an expression of the metric's arguments and of
        ``sizes`` and ``steps``, the numbers of distinct explanation sizes and curve points.
    counted : str
        What these rows are.
    besides : str
        The cost of a call besides these rows; empty if there is none.
    details : tuple of str
        The keys of ``metric.details`` besides ``"flags"`` and ``"space"``, which every metric
        has;
        :data:`DETAILS` has their meanings.
    modalities : tuple of str
        What it takes.
    carries_input : bool or None
        Whether maps should include the input as a factor; None if it depends on an argument or on
        another metric, does not matter, or is unknown.
    neighbours : tuple of Neighbour
    limits : str
        What a score does not say.
    around : str
        For a wrapper: the class of the metric that it is described with.
    """

    question: str = UNKNOWN
    reading: str = UNKNOWN
    formula: str = UNKNOWN
    paper: Paper | None = None
    equation: str = ""
    departures: str = UNKNOWN
    page: str = ""
    unit: str = UNKNOWN
    linear: LinearScores | None = None
    removed: Removed = UNKNOWN
    ties: Ties = UNKNOWN
    draws: bool | None = None
    evaluations: str = UNKNOWN
    counted: str = UNKNOWN
    besides: str = ""
    details: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    carries_input: bool | None = None
    neighbours: tuple[Neighbour, ...] = ()
    limits: str = UNKNOWN
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
GRAD_CAM_PP = Paper(
    "A. Chattopadhay, A. Sarkar, P. Howlader, V. N. Balasubramanian",
    "Grad-CAM++: Generalized Gradient-Based Visual Explanations for Deep Convolutional Networks",
    "WACV 2018",
)
OPTI_CAM = Paper(
    "H. Zhang, F. Torres, R. Sicre, Y. Avrithis, S. Ayache",
    "Opti-CAM: Optimizing saliency maps for interpretability",
    "Computer Vision and Image Understanding 2024",
    is_journal=True,
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

_WEIGHTED_INPUT = ("drop", "increase", "gain", "original_score", "masked_score")
_NUMBERS = ("image", "volume", "series", "table", "text")
_LIMITS_OF_WEIGHTING = (
    "It depends on the values of the map, not only on their order: one that keeps more of the "
    "input scores better. Weighted inputs leave the training data."
)

_LIMITS_OF_REMOVAL = (
    "A drop may come from the unusual input and not from what was removed. The "
    "best possible score depends on the model: scores compare maps, not models."
)
_WEIGHTED = "uneven steps are weighted, so that a straight curve keeps its mean"

FACTS: dict[str, Facts] = {
    "Infidelity": Facts(
        question=(
            "How far is the output change that the map predicts, `I·Φ`, from the actual one, "
            "`f(x) − f(x−I)`?"
        ),
        reading=(
            "the squared difference of predicted and actual change is 0.3 on average, a "
            "typical error of 0.55; 0 is perfect. Whether 0.3 is small depends on how far the"
            ' output changes: `details["faithfulness"]`, from 0 to 1 (best), takes that into '
            "account"
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
        departures=(
            "by default random windows or subsets are replaced; the paper's Gaussian noise "
            "gives inputs unlike the data. Masks are drawn without replacement where at most "
            "1,024 are possible"
        ),
        unit="squared output",
        linear=LinearScores(0.0, 137.33, 53.83, 41.88),
        removed="the sample's minimum",
        ties="do not matter",
        draws=True,
        modalities=MODALITIES,
        neighbours=(
            Neighbour(
                "quantus.Infidelity",
                (
                    'not the same by default; `scheme="quantus"` here gives its number. Other '
                    "schemes cannot be converted: Quantus's perturbations accumulate from patch "
                    "to patch, and theirs do not"
                ),
                True,
            ),
            Neighbour(
                "captum.metrics.infidelity",
                (
                    "not the same by default; its perturbation function through "
                    "`perturbation.from_captum` here gives its number. Its `normalize=True` "
                    "is `rescale=True` here; with N draws, captum's number is lower by about a "
                    "share of 1/N, since it does not correct for the scale being fitted to them"
                ),
                True,
            ),
        ),
        limits=(
            "It depends on the scale of map and output: compare only the same model, "
            'perturbation and kind of map. details["faithfulness"] is free of the scale.'
        ),
    ),
    "Fidelity": Facts(
        question=(
            "Does the prediction change without the top s elements (Fid⁺), and stay with only "
            "those (Fid⁻)?"
        ),
        reading=(
            "at 30 % of the sizes the label turns from right to wrong where the top is "
            'removed, less those where it turns right. With `score="minus"` it is the rest '
            "that is removed, and lower is better"
        ),
        formula="`1(y = f(x)) − 1(y = f(x without the top s))`, averaged over sizes s",
        paper=F_FIDELITY,
        equation="eq. 1–2",
        page="fidelity.md",
        evaluations="1 + 2 * sizes",
        counted="the clean input; per size, one row for Fid⁺ and one for Fid⁻",
        details=_SIZES,
        carries_input=True,
        departures="",
        unit="share of explanation sizes",
        linear=LinearScores(0.82, 0.0, 0.22, 0.25),
        removed="0",
        ties="at random",
        draws=False,
        modalities=MODALITIES,
        neighbours=(
            Neighbour(
                "quantus.ROAD",
                (
                    "does not convert: it is the share of all samples that keep their "
                    "label after noisy imputation"
                ),
                False,
            ),
        ),
        limits=(
            "A change may come from the unusual input and not from what was removed. A label that "
            "survives every removal gives 0 for every map."
        ),
    ),
    "RFidelity": Facts(
        question=(
            "Does the prediction change without a random part of the top s, and stay without a "
            "random part of the rest?"
        ),
        reading=(
            "in 30 % of all draws the label turns from right to wrong where a share `alpha` "
            "of the top s elements is removed, less those where it turns right. With "
            '`score="minus"` it is a share of the rest, and lower is better'
        ),
        formula="as Fidelity, averaged over draws that remove `⌊αs⌋` of the top s",
        paper=F_FIDELITY,
        equation="eq. 3–4",
        page="fidelity.md",
        evaluations="1 + 2 * sizes * n_samples",
        counted="as Fidelity, with `n_samples` draws per row",
        details=_SIZES,
        carries_input=True,
        departures="",
        unit="share of explanation sizes and draws",
        linear=LinearScores(0.28, 0.0, 0.11, 0.11),
        removed="0",
        ties="at random",
        draws=True,
        modalities=MODALITIES,
        limits=(
            "The best possible score depends on the model and on `alpha`, so that it "
            "compares maps and not models."
        ),
    ),
    "FFidelity": Facts(
        question=(
            "What is R-Fidelity for a copy of the model that was fine-tuned to handle removed "
            "elements?"
        ),
        reading=(
            "in 30 % of all draws the label of the fine-tuned copy turns from right to wrong,"
            " less those where it turns right. As at most the share `beta` of all elements is"
            " removed, 0.3 is much. Not comparable with RFidelity"
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
        departures="",
        unit="share of explanation sizes and draws",
        linear=LinearScores(0.08, 0.0, 0.03, 0.04),
        removed="0",
        ties="at random",
        draws=True,
        modalities=MODALITIES,
        limits=(
            "It scores a copy: `health` says whether that tolerates removal and still answers "
            "as the model does. Without `fine_tune` it is tuned on the inputs to be scored. At "
            "most the share `beta` is removed, so that scores are small: compare maps on the "
            "same copy and `beta` only."
        ),
    ),
    "ROAR": Facts(
        question=(
            "What is Fidelity for a model that was trained without the elements that the map "
            "ranks highest?"
        ),
        reading=("as for Fidelity, of the retrained model"),
        formula="Fidelity of the retrained model",
        paper=REMOVE_AND_RETRAIN,
        equation="",
        page="fidelity.md",
        evaluations="1 + 2 * sizes",
        counted="as Fidelity, on the retrained model",
        details=_SIZES,
        carries_input=None,
        besides="training",
        departures=(
            "one model for all sizes by default, trained with a random share removed; "
            '`retrain="per_sparsity"` is as published'
        ),
        unit="share of explanation sizes",
        linear=LinearScores(0.41, 0.03, 0.2, 0.2),
        removed="0",
        ties="at random",
        draws=False,
        modalities=tuple(name for name in MODALITIES if name != "data frame"),
        limits=(
            "The seed of the trainer decides the training. Which elements a map ranks "
            "highest can tell the class, signed maps most of all. The retrained model "
            "learns to read it, and good maps then score worse than random ones."
        ),
    ),
    "MoRF": Facts(
        question="How far does the output drop when the most relevant elements are removed first?",
        reading=(
            "over the whole removal, the output is 0.3 lower on average than for the whole "
            "input. It is much if that was 0.4, and little if it was 1"
        ),
        formula="`1/(L+1) Σ_k (f(x⁰) − f(xᵏ))` over even steps, most relevant first",
        paper=M4,
        equation="",
        page="removal_curves.md",
        evaluations="1 + steps",
        counted="the clean input and one row per step",
        details=_CURVE,
        carries_input=True,
        departures=_WEIGHTED,
        unit="drop of the output",
        linear=LinearScores(0.74, 0.01, 0.23, 0.25),
        removed="0",
        ties="at random",
        draws=False,
        modalities=MODALITIES,
        neighbours=(
            Neighbour(
                "quantus.RegionPerturbation",
                (
                    "the same where it removes all regions: the mean of 0 and of its "
                    'curve, with `order="morf"` and disjoint patches'
                ),
                True,
            ),
        ),
        limits=_LIMITS_OF_REMOVAL,
    ),
    "LeRF": Facts(
        question="How far does the output drop when the least relevant elements are removed first?",
        reading=("as for MoRF, where the least relevant go first, so that less is better"),
        formula="as MoRF, least relevant first",
        paper=M4,
        equation="",
        page="removal_curves.md",
        evaluations="1 + steps",
        counted="as MoRF",
        details=_CURVE,
        carries_input=True,
        departures=_WEIGHTED,
        unit="drop of the output",
        linear=LinearScores(0.01, 0.74, 0.22, 0.22),
        removed="0",
        ties="at random",
        draws=False,
        modalities=MODALITIES,
        limits=_LIMITS_OF_REMOVAL,
    ),
    "ABPC": Facts(
        question=(
            "How much larger is the drop when the most relevant elements are removed first than "
            "when the least relevant are?"
        ),
        reading=(
            "the output drops 0.3 further on average if the most relevant go first. About 0: "
            "the order says nothing; below 0: the reverse is better"
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
        departures=_WEIGHTED,
        unit="difference of drops of the output",
        linear=LinearScores(0.73, -0.73, 0.01, 0.03),
        removed="0",
        ties="at random",
        draws=False,
        modalities=MODALITIES,
        limits=_LIMITS_OF_REMOVAL,
    ),
    "Deletion": Facts(
        question="How much of the output remains while the most relevant elements are removed?",
        reading=(
            "over the whole removal, the output is 0.3 on average. It is little if the output"
            " for the whole input was 0.99, and much if that was 0.35: "
            '`details["normalised"]` is the score divided by that output'
        ),
        formula="area under `f` over the fraction removed, most relevant first (trapezoidal rule)",
        paper=RISE,
        equation="",
        page="removal_curves.md",
        evaluations="1 + steps",
        counted="as MoRF",
        details=(*_CURVE, "normalised", "relative_drop"),
        carries_input=True,
        departures="even steps in place of a pixel at a time; `features_in_step` sets the step",
        unit="mean output",
        linear=LinearScores(0.18, 0.98, 0.73, 0.72),
        removed="0",
        ties="at random",
        draws=False,
        modalities=MODALITIES,
        neighbours=(
            Neighbour(
                "quantus.PixelFlipping",
                (
                    "from its area a, Deletion = `(a + (f₀ + f₁) / 2) / steps`, with the output "
                    "f₀ for the whole input and f₁ after the first step, and the same "
                    '`features_in_step`, replacement and output, `element="channel_value"`'
                ),
                True,
            ),
        ),
        limits=_LIMITS_OF_REMOVAL,
    ),
    "Insertion": Facts(
        question="How much of the output returns while the most relevant elements are restored?",
        reading=(
            "while elements are restored, the output is 0.3 on average. It is much if the "
            "output for the whole input is 0.35, and little if that is 0.99: "
            '`details["normalised"]` is the score divided by that output'
        ),
        formula="area under `f` over the fraction restored, most relevant first (trapezoidal rule)",
        paper=RISE,
        equation="",
        page="removal_curves.md",
        evaluations="1 + steps",
        counted="as MoRF",
        details=(*_CURVE[:-1], "final_rise", "normalised", "relative_rise"),
        carries_input=True,
        departures=(
            'as Deletion; the start is 0 in place of a blurred input, which is `baseline="blur"`'
        ),
        unit="mean output",
        linear=LinearScores(0.98, 0.18, 0.74, 0.74),
        removed="0",
        ties="at random",
        draws=False,
        modalities=MODALITIES,
        limits=_LIMITS_OF_REMOVAL,
    ),
    "AverageDrop": Facts(
        question="What share of the output is lost when the map weights the input?",
        reading=("30 % of the output is lost. 0: nothing, or it rises"),
        formula=(
            "`max(f(x) − f(m·x), 0) / f(x)`, with m the map scaled to [0, 1], its lowest value "
            "to 0 and its highest to 1"
        ),
        paper=GRAD_CAM_PP,
        equation="",
        page="average_drop.md",
        evaluations="2",
        counted="the clean input and the weighted one",
        details=_WEIGHTED_INPUT,
        carries_input=True,
        departures="a score per sample, from 0 to 1; the paper's is their mean, in percent",
        unit="share of the output",
        linear=LinearScores(0.0, 0.78, 0.48, 0.15),
        removed="what the map, scaled to [0, 1], leaves of it",
        ties="do not matter",
        draws=False,
        modalities=_NUMBERS,
        limits=_LIMITS_OF_WEIGHTING,
    ),
    "AverageIncrease": Facts(
        question="Does the output rise when the map weights the input?",
        reading=("of one sample never; a mean of 0.3: the output rises for 30 % of the samples"),
        formula="`1(f(m·x) > f(x))`, with m the map scaled to [0, 1]",
        paper=GRAD_CAM_PP,
        equation="",
        page="average_drop.md",
        evaluations="2",
        counted="as AverageDrop",
        details=_WEIGHTED_INPUT,
        carries_input=True,
        departures="a score per sample, 0 or 1; the paper's is their mean, in percent",
        unit="1 if it rises, otherwise 0",
        linear=LinearScores(0.84, 0.0, 0.0, 0.19),
        removed="what the map, scaled to [0, 1], leaves of it",
        ties="do not matter",
        draws=False,
        modalities=_NUMBERS,
        limits=_LIMITS_OF_WEIGHTING,
    ),
    "AverageGain": Facts(
        question="What share of the missing output is gained when the map weights the input?",
        reading=("the output rises by 30 % of what it lacks of 1. 0: it does not rise"),
        formula="`max(f(m·x) − f(x), 0) / (1 − f(x))`, with m the map scaled to [0, 1]",
        paper=OPTI_CAM,
        equation="",
        page="average_drop.md",
        evaluations="2",
        counted="as AverageDrop",
        details=_WEIGHTED_INPUT,
        carries_input=True,
        departures="a score per sample; the paper's is their mean",
        unit="share of what the output lacks of 1",
        linear=LinearScores(0.72, 0.0, 0.0, 0.08),
        removed="what the map, scaled to [0, 1], leaves of it",
        ties="do not matter",
        draws=False,
        modalities=_NUMBERS,
        limits=_LIMITS_OF_WEIGHTING,
    ),
    "PScore": Facts(
        question="Does the map agree with the same explainer's maps of other good models?",
        reading=(
            "the map points a little where those of the other models point on average. 1: the"
            " same; 0: no relation; −1: the opposite"
        ),
        formula="cosine similarity to the mean of the unit-length maps of the other models",
        paper=M4,
        equation="",
        page="removal_curves.md",
        evaluations="1",
        counted="the clean input; the explainer also runs on every other model",
        details=("similarity",),
        carries_input=None,
        besides="explanations",
        departures="",
        unit="cosine",
        linear=LinearScores(1.0, -1.0, 0.24, 0.0),
        removed="nothing is removed",
        ties="do not matter",
        draws=False,
        modalities=MODALITIES,
        limits=(
            "Agreement is not faithfulness: an explainer that gives every model the same "
            "map gets 1."
        ),
    ),
    "SynScore": Facts(
        question="Does the map rank the planted ground truth above everything else?",
        reading=(
            "a random planted element outranks a random other one with probability 0.3: worse"
            " than chance, which is 0.5"
        ),
        formula="AUROC (or average precision) of the map against the planted ground truth",
        paper=M4,
        equation="",
        page="removal_curves.md",
        evaluations="0",
        counted="the model is not evaluated",
        details=("auroc", "ap", "planted"),
        carries_input=None,
        departures="",
        unit="area under the curve",
        linear=LinearScores(1.0, 0.0, 0.5, 0.5),
        removed="nothing is removed",
        ties="count half",
        draws=False,
        modalities=MODALITIES,
        neighbours=(Neighbour("quantus.AUC", "the same where no values tie", True),),
        limits=(
            "It holds for models that are known to use what is planted, and for nothing "
            "else that they use."
        ),
    ),
    "QGE": Facts(
        question=(
            "How much better does a metric, also one of Quantus's, score the map than its "
            "inverse, the same values in reversed order?"
        ),
        reading=(
            "the inner metric scores the map 0.3 better than its inverse. About 0: no better "
            "than any order; below 0: worse. The size has the inner metric's unit"
        ),
        formula="`q(e) − q(e_inv)`, with the sign flipped if lower is better",
        paper=INVERSE,
        equation="eq. 4–5",
        page="qge.md",
        evaluations="1 + n_perturb_samples",
        counted="as `Infidelity`: the map and its inverse share their draws",
        details=("score", "reference", "references"),
        carries_input=None,
        around="Infidelity",
        departures="",
        unit="difference of scores of the inner metric",
        linear=LinearScores(20.3, -21.02, 0.0, 1.83),
        ties="at random",
        limits=(
            "It says that another order would be worse, and not that the map is good. It "
            "is 0 for metrics that do not see which element has which value."
        ),
    ),
}
"""What is known of each metric, by class name, in the order of the documents."""

DETAILS: dict[str, str] = {
    "flags": "what makes the score arbitrary, of every metric; see below",
    "space": "what the map leaves unexplained in each space of outputs, of every metric; see below",
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
    "normalised": "the area divided by `original_score`; NaN unless that is positive",
    "relative_drop": "`final_drop / original_score`; NaN unless that is positive",
    "relative_rise": (
        "`final_rise` divided by its size: 1 where the output rises, −1 where it falls"
    ),
    "morf": "MoRF",
    "lerf": "LeRF",
    "curve_morf": "the output while the most relevant elements are removed first",
    "curve_lerf": "the output while the least relevant elements are removed first",
    "drop": "the average drop of the sample",
    "increase": "the average increase of the sample, 0 or 1",
    "gain": "the average gain of the sample",
    "masked_score": "the output for the input weighted by the map",
    "similarity": "the cosine similarity to the map of each other model",
    "auroc": "the area under the ROC curve",
    "ap": "the average precision",
    "planted": "the share of elements that `s_batch` marks",
    "score": "the inner metric's score of the map",
    "reference": "its score of the inverse, or its mean score of the references",
    "references": "its score of each reference",
}
"""The meaning of each key of ``metric.details``."""
