"""Arguments that break their rules are refused by name, and other forms of right ones are taken.

``python -m benchmarks.malformed_calls`` makes all calls; here it is some of each callable's.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import malformed_calls
from quantus_ext import Deletion, Infidelity, checks, evaluate, protocols
from tests.harness import make_inputs

EVERY = 29
"""A prime, so that no kind of value is left out for all callables."""

TARGETS = {target.name: target for target in malformed_calls.targets()}


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_some_calls_of_each(name, tmp_path, monkeypatch):
    # What should be refused may write where it is.
    monkeypatch.chdir(tmp_path)
    wrong = [
        f"{call.parameter}={call.what}: {found} {more}"
        for call, found, more in malformed_calls.run(TARGETS[name], EVERY)
        if found in malformed_calls.BAD
    ]
    assert not wrong


def test_the_harness_tells_outcomes_apart():
    def careless(count: int, flag: bool) -> float:
        return 3.0 // (count + bool(flag))

    target = malformed_calls.Target(
        "careless",
        careless,
        {"count": 2, "flag": False},
        {"count": frozenset({"count"}), "flag": frozenset({"flag"})},
    )
    found = {
        (call.parameter, call.what): outcome for call, outcome, _ in malformed_calls.run(target)
    }
    assert found["flag", "'no'"] == malformed_calls.TAKEN
    assert found["count", "'no'"] == malformed_calls.NAMELESS
    assert found["count", "np.uint8"] == malformed_calls.WORKS
    assert malformed_calls.REFUSED not in found.values()


class Answers(nn.Module):
    """Signs of sums of a table's features, as numbers of a type, or as floats with its values."""

    def __init__(self, kind: torch.dtype, *, as_floats: bool) -> None:
        super().__init__()
        self.kind = kind
        self.as_floats = as_floats
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = torch.stack([x[:, 0] + x[:, 1], x[:, 2]], 1).sign().to(self.kind)
        return scores.double() if self.as_floats else scores


@pytest.mark.parametrize("kind", [torch.int64, torch.int8, torch.bool])
def test_outputs_that_are_integers_or_truths(kind):
    x, y = np.random.default_rng(0).normal(size=(4, 3)), np.array([0, 1, 0, 1])
    for metric in (Deletion(3), Infidelity(perturb_patch_sizes=1)):
        scores, expected = (
            metric(Answers(kind, as_floats=each), x, y, x, softmax=False) for each in (False, True)
        )
        assert scores == expected
    with pytest.raises(TypeError, match="model's output must hold floating-point numbers"):
        Deletion(3)(Answers(kind, as_floats=False), x, y, x, softmax=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheme": "subset", "perturb_patch_sizes": 2}, "perturb_patch_sizes needs scheme="),
        ({"scheme": "all", "perturb_patch_sizes": [2]}, "perturb_patch_sizes needs scheme="),
        ({"subset_fraction": 0.1}, 'subset_fraction needs scheme="subset", scheme is .patch'),
        ({"scheme": "all", "subset_fraction": 0.1}, 'subset_fraction needs scheme="subset"'),
    ],
)
def test_what_another_argument_of_infidelity_would_override(settings, message):
    with pytest.raises(ValueError, match=message):
        Infidelity(**settings)


def test_steps_and_what_stands_in_for_them():
    with pytest.raises(ValueError, match="features_in_step replaces steps: leave one out of"):
        Deletion(20, features_in_step=2)
    assert len(Deletion().fractions) == 21
    with pytest.raises(ValueError, match="steps must be at most 1,000,000, is 100000000"):
        Deletion(10**25 // 10**17)
    with pytest.raises(ValueError, match=r"steps must be below 2\*\*63"):
        Deletion(10**25)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([0, 2**64 - 1], np.uint64), r"below 2\*\*63, holds 18446744073709551616 in sam"),
        (torch.tensor([0, 2**63], dtype=torch.uint64), r"below 2\*\*63"),
        (np.array([0.0, 1e30]), r"below 2\*\*63"),
    ],
)
def test_labels_do_not_wrap(y, message):
    with pytest.raises(ValueError, match=f"y_batch must hold integers {message}"):
        checks.labels(y, 2)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (10**5000, "a int"),
        (np.zeros((90, 90)), r"array\(\[\[0\., 0\., .*…"),
        ("a\nb", r"'a\\nb'"),
    ],
    ids=["digits", "array", "lines"],
)
def test_values_are_shown_in_a_short_line(value, shown):
    with pytest.raises(TypeError, match=f"abs must be True or False, is {shown}$"):
        checks.flag("abs", value)


def test_complex_maps_keep_no_real_part_alone():
    maps = make_inputs("table").a + 1j
    with pytest.raises(TypeError, match="a_batch must hold real numbers, holds complex ones"):
        protocols.degrade(maps, 0.5)


def test_names_that_read_alike():
    inputs = make_inputs("table", dtype=torch.float32)
    given = (inputs.model, inputs.x, inputs.y)
    with pytest.raises(ValueError, match="xai_methods must have different names, two read '1'"):
        evaluate({"m": Deletion(2)}, {1: inputs.a, "1": -inputs.a}, *given)
    with pytest.raises(ValueError, match="metrics must have different names, two read '1'"):
        evaluate({1: Deletion(2), "1": Deletion(3)}, {"a": inputs.a}, *given)
    with pytest.raises(ValueError, match=r"columns of different names, A \(x\) \(x\) is that of"):
        evaluate(
            {"A": Deletion(2), "A (x)": Deletion(3)},
            {"a": inputs.a},
            *given,
            call_kwargs={"x": {}, "x) (x": {}},
        )


def test_a_method_that_nothing_knows_is_refused_before_the_work():
    inputs = make_inputs("table", dtype=torch.float32)
    with pytest.raises(ValueError, match=r"method of xai_methods\['Saliencyy'\] must be one of"):
        evaluate({"m": Deletion(2)}, {"Saliencyy": {}}, inputs.model, inputs.x, inputs.y)


@pytest.mark.parametrize("returned", [None, "maps", 1j * np.ones((2, 7)), np.ones(())])
def test_what_an_explainer_must_not_return_fails_in_its_cell(returned):
    inputs = make_inputs("table", n=2, dtype=torch.float32)
    methods = {"bad": lambda model, inputs, targets: returned, "good": inputs.a}
    with pytest.warns(RuntimeWarning, match=r"bad by m \(explaining failed: \w+Error: \w+"):
        found = evaluate({"m": Deletion(2)}, methods, inputs.model, inputs.x, inputs.y)
    assert found.ranking().order("m") == ("good",)
    assert list(found.failed_cells()) == [("bad", "m")]
