"""Keys by content: equal for equal content, different for any difference."""

from __future__ import annotations

import copy
import functools
import itertools
import types
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from quantus_ext.finetune.identity import content_key


def adding(amount: object):
    def add(x):
        return x + amount

    return add


def defined(source: str, name: str = "f"):
    """Define a function as a notebook does, in a module named __main__."""
    module = types.ModuleType("__main__")
    exec(source, module.__dict__)
    return module.__dict__[name]


@dataclass
class Point:
    x: float


class Plain:
    def __init__(self, value: object) -> None:
        self.value = value


class Recursive:
    def __init__(self) -> None:
        self.me = self


def layer(*, bias: float = 0.0) -> nn.Module:
    linear = nn.Linear(2, 2)
    nn.init.ones_(linear.weight)
    nn.init.constant_(linear.bias, bias)
    return linear


NOTEBOOK = (
    "scale = {}\ndef g(x):\n    return x * {}\ndef f(x):\n    return [g(v) + scale for v in x]"
)
NETWORK = """
import torch
class Net(torch.nn.Module):
    power = {}
    def forward(self, x):
        return self.helper(x)
    def helper(self, x):
        return x {} 1
"""

DIFFERENT = {
    "number": 1,
    "float": 1.0,
    "text": "1",
    "truth": True,
    "nothing": None,
    "bytes": b"1",
    "empty": (),
    "empty list": [],
    "nested": ((),),
    "flat": (1, 2, 3),
    "grouped": ((1, 2), 3),
    "grouped otherwise": (1, (2, 3)),
    "mapping": {"a": 1},
    "other mapping": {"a": 2},
    "set": {1, 2},
    "numpy scalar": np.float32(1),
    "other numpy scalar": np.float32(2),
    "array": np.arange(4),
    "array in another shape": np.arange(4).reshape(2, 2),
    "array of another type": np.arange(4).astype(np.int32),
    "array of nothing": np.zeros((0, 3)),
    "tensor": torch.arange(4),
    "tensor in another shape": torch.arange(4).reshape(2, 2),
    "tensor of another type": torch.arange(4).to(torch.float16),
    "brain floats": torch.ones(3, dtype=torch.bfloat16),
    "scalar tensor": torch.tensor(1),
    "tensor of nothing": torch.zeros(0, 3),
    "closure": adding(1),
    "other closure": adding(2),
    "closure over a closure": adding(adding(1)),
    "partial": functools.partial(adding(1), 1),
    "other partial": functools.partial(adding(1), 2),
    "lambda": lambda x: x + 1,
    "other lambda": lambda x: x + 2,
    "default": lambda x=1: x,
    "other default": lambda x=2: x,
    "other name read": lambda x: x.real,
    "built-in": len,
    "other built-in": sum,
    "class": nn.ReLU,
    "other class": nn.Tanh,
    "dataclass": Point(1),
    "other dataclass": Point(2),
    "object": Plain(1),
    "other object": Plain(2),
    "method": Plain(1).__init__,
    "notebook": defined(NOTEBOOK.format(1, 2)),
    "another number that it reads": defined(NOTEBOOK.format(2, 2)),
    "another function that it calls": defined(NOTEBOOK.format(1, 3)),
    "module": layer(),
    "module with other weights": layer(bias=1.0),
    "module in a module": nn.Sequential(layer()),
    "module of the notebook": defined(NETWORK.format(1, "+"), "Net")(),
    "with another helper": defined(NETWORK.format(1, "-"), "Net")(),
    "with another constant": defined(NETWORK.format(2, "+"), "Net")(),
}


def test_any_difference_shows():
    keys = {name: content_key(value) for name, value in DIFFERENT.items()}
    same = [pair for pair in itertools.combinations(keys, 2) if len({keys[n] for n in pair}) == 1]
    assert same == []


@pytest.mark.parametrize("name", DIFFERENT)
def test_copies_are_equal(name):
    value = DIFFERENT[name]
    assert content_key(copy.deepcopy(value)) == content_key(value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (np.arange(6).reshape(2, 3).T, np.ascontiguousarray(np.arange(6).reshape(2, 3).T)),
        (torch.arange(6).reshape(2, 3).T, torch.arange(6).reshape(2, 3).T.contiguous()),
        (adding(np.ones(2)), adding(np.ones(2))),
        (defined(NOTEBOOK.format(1, 2)), defined("# moved\n\n" + NOTEBOOK.format(1, 2))),
        (layer().eval(), layer().train().requires_grad_(False)),
    ],
)
def test_equal_content(first, second):
    assert content_key(first) == content_key(second)


def test_content_that_holds_itself():
    assert content_key(Recursive()) == content_key(Recursive())

    def factorial(n: int) -> int:
        return n * factorial(n - 1) if n else 1

    assert content_key(factorial) == content_key(factorial)
