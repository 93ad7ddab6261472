"""Keys by content: equal for equal content, different for any difference."""

from __future__ import annotations

import collections
import copy
import functools
import itertools
import re
import sys
import threading
import types
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from quantus_ext.identity import content_key, content_of, copied, same_answers, telling


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
READS = "HELD = {}\ndef f(x):\n    return x * HELD"
HOLDS = "class Held:\n    def __init__(self, v):\n        self.v = v\n" + READS
KEEPS = """
import functools
class f:
    {}
"""
CACHED = "import functools\n@functools.cache\ndef f(x):\n    return x + {}"


class Slots:
    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class OwnDict(dict):
    pass


class OwnList(list):
    pass


Pair = collections.namedtuple("Pair", "a b")

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
    "method of another object": Plain(2).__init__,
    "object with slots": Slots(1),
    "other object with slots": Slots(2),
    "fraction": Fraction(1, 2),
    "other fraction": Fraction(1, 3),
    "universal function": np.minimum,
    "other universal function": np.maximum,
    "function of torch": torch.relu,
    "other function of torch": torch.sigmoid,
    "generator": torch.Generator().manual_seed(1),
    "other generator": torch.Generator().manual_seed(2),
    "numpy's generator": np.random.default_rng(1),
    "numpy's other generator": np.random.default_rng(2),
    "named tuple": Pair(1, 2),
    "other named tuple": Pair(1, 3),
    "dict of one's own": OwnDict(a=1),
    "other dict of one's own": OwnDict(a=2),
    "list of one's own": OwnList([1]),
    "other list of one's own": OwnList([2]),
    "pattern": re.compile("a"),
    "other pattern": re.compile("b"),
    "reads a number": defined(READS.format(1)),
    "reads a dict": defined(READS.format("{'a': 1}")),
    "reads another dict": defined(READS.format("{'a': 2}")),
    "reads a list": defined(READS.format("[1]")),
    "reads another list": defined(READS.format("[2]")),
    "reads a set": defined(READS.format("{1}")),
    "reads another set": defined(READS.format("{2}")),
    "reads an object": defined(HOLDS.format("Held(1)")),
    "reads another object": defined(HOLDS.format("Held(2)")),
    "keeps a list": defined(KEEPS.format("held = [1]")),
    "keeps another list": defined(KEEPS.format("held = [2]")),
    "keeps an array": defined("import numpy\n" + KEEPS.format("held = numpy.ones(2)")),
    "keeps another array": defined("import numpy\n" + KEEPS.format("held = numpy.zeros(2)")),
    "property": defined(KEEPS.format("p = property(lambda self: 1)")),
    "other property": defined(KEEPS.format("p = property(lambda self: 2)")),
    "cached property": defined(KEEPS.format("p = functools.cached_property(lambda self: 1)")),
    "other cached property": defined(KEEPS.format("p = functools.cached_property(lambda self: 2)")),
    "class method": defined(KEEPS.format("p = classmethod(lambda cls: 1)")),
    "other class method": defined(KEEPS.format("p = classmethod(lambda cls: 2)")),
    "cached function": defined(CACHED.format(1)),
    "other cached function": defined(CACHED.format(2)),
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


def imported(monkeypatch: pytest.MonkeyPatch, folder: str, amount: int):
    """Define a function that calls one of a file in a folder, which adds ``amount``."""
    helpers = types.ModuleType(f"helpers_in_{folder.replace('-', '_')}")
    helpers.__file__ = f"/{folder}/helpers.py"
    monkeypatch.setitem(sys.modules, helpers.__name__, helpers)
    exec(
        f"def g(x, y={amount}):\n    return x\n"
        f"def h(x):\n    return x + {amount}\n"
        "def adding(y):\n    return lambda x: x + y\n",
        helpers.__dict__,
    )
    return helpers


def test_functions_of_other_files_count_and_those_of_libraries_by_name(monkeypatch):
    for folder, counts in (("project", True), ("site-packages", False)):
        keys = []
        for amount in (1, 2):
            helpers = imported(monkeypatch, folder, amount)
            using = defined("def f(x):\n    return h(x)")
            using.__globals__["h"] = helpers.h
            keys.append((content_key(using), content_key(helpers.adding(amount))))
        (code, closure), (other_code, other_closure) = keys
        assert (code != other_code) is counts
        assert closure != other_closure, "what a library's function closes over is the user's"


def test_what_cannot_be_read_equals_nothing_and_is_named():
    running = (value for value in range(3))
    assert content_key(running) != content_key(running)
    assert content_key([1, running]) != content_key([1, running])
    content = content_of([1, running, sys._getframe()])
    assert content.unread == ("frame", "generator")
    assert content.key == content_of([1, running, sys._getframe()]).key
    assert not content.closed


def test_locks_hold_nothing_that_answers_depend_on():
    for make in (threading.Lock, threading.RLock, threading.Condition, threading.Event):
        assert content_key(make(), 1) == content_key(make(), 1) != content_key(make(), 2)


def test_copies_share_what_cannot_be_copied():
    running = (value for value in range(3))
    first = {"running": running, "lock": threading.Lock(), "weights": torch.ones(2)}
    twin = copied(first)
    assert twin["running"] is running
    assert twin["lock"] is first["lock"]
    assert twin["weights"] is not first["weights"]
    assert torch.equal(twin["weights"], first["weights"])


class Kept(nn.Module):
    """Holds a number and a tensor that are neither parameters nor buffers."""

    def __init__(self, value: float, number: float = 1.0) -> None:
        super().__init__()
        self.value, self.number = torch.full((2,), value), number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.value + self.number


def quantised(value: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    nn.init.constant_(model[0].weight, value)
    nn.init.zeros_(model[0].bias)
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear})


ROWS = torch.ones(3, 2)
FORMS = {
    "scripted tensor": lambda value: torch.jit.script(Kept(value).eval()),
    "scripted number": lambda value: torch.jit.script(Kept(1.0, value).eval()),
    "scripted inside": lambda value: nn.Sequential(torch.jit.script(Kept(value).eval())),
    "traced": lambda value: torch.jit.trace(Kept(value).eval(), ROWS),
    "frozen": lambda value: torch.jit.freeze(torch.jit.script(Kept(value).eval())),
    "symbolically traced": lambda value: torch.fx.symbolic_trace(Kept(value).eval()),
    "exported": lambda value: torch.export.export(Kept(value).eval(), (ROWS,)).module(),
    "compiled": lambda value: torch.compile(Kept(value).eval()),
    "quantised": quantised,
    "weights on another scale": lambda value: torch.quantize_per_tensor(
        torch.full((2,), value), value, 0, torch.qint8
    ),
    "sparse": lambda value: (torch.eye(3) * value).to_sparse(),
    "sparse rows": lambda value: (torch.eye(3) * value).to_sparse_csr(),
    "sparse columns": lambda value: (torch.eye(3) * value).to_sparse_csc(),
    "conjugate": lambda value: torch.tensor([1 + 2j * value]).conj(),
    "masked array": lambda value: np.ma.MaskedArray([1, 2], mask=[value > 1, False]),
    "records": lambda value: np.array([(value, 1)], dtype=[("a", "f4"), ("b", "i8")]),
    "times": lambda value: np.array([int(value)], dtype="datetime64[D]"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_models_and_arrays_are_known_by_their_content(form):
    make = FORMS[form]
    keys = [content_key(make(value)) for value in (1.0, 1.0, 2.0)]
    assert keys[0] == keys[1] != keys[2]


def test_tensors_without_data():
    assert content_key(nn.Linear(2, 3, device="meta")) == content_key(
        nn.Linear(2, 3, device="meta")
    )


def test_bytes_between_the_fields_of_a_record_do_not_count():
    layout = np.dtype(
        {"names": ["a", "b"], "formats": ["f4", "u1"], "offsets": [0, 4], "itemsize": 8}
    )
    first, second = (np.full(16, fill, dtype=np.uint8).view(layout) for fill in (0, 255))
    for records in (first, second):
        records["a"], records["b"] = 1.0, 2
    assert first.tobytes() != second.tobytes()
    assert content_key(first) == content_key(second)


def test_what_is_read_of_ones_own_files_counts(monkeypatch):
    settings = types.ModuleType("settings_of_a_project")
    settings.__file__ = "/project/settings.py"
    monkeypatch.setitem(sys.modules, settings.__name__, settings)
    inside = (
        "def f(x):\n    import settings_of_a_project\n    return settings_of_a_project.scale * x"
    )
    outside = "import settings_of_a_project as s\ndef f(x):\n    return s.scale * x"
    for source in (inside, outside):
        function, keys = defined(source), []
        for settings.scale, settings.other in ((1, 1), (2, 1), (1, 2)):
            keys.append(content_key(function))
        assert keys[0] == keys[2] != keys[1], "the other name is not read"


def test_answers_are_compared_row_by_row():
    answers = torch.tensor([[100.0, 1.0], [0.001, 0.002], [torch.inf, torch.nan]])
    assert same_answers(answers, answers.clone(), exact=True)
    assert same_answers(answers, answers * (1 + 1e-6))
    assert not same_answers(answers, answers * (1 + 1e-6), exact=True)
    smaller = answers.clone()
    smaller[1, 0] += 1e-5
    assert not same_answers(answers, smaller)
    for other in (torch.inf, torch.nan):
        assert not same_answers(answers, answers.where(answers.isfinite(), other))
    assert not same_answers(answers, answers.double())
    assert not same_answers(answers, answers[:2])
    low = answers[:2].bfloat16()
    assert same_answers(low, low * 1.02)


def test_answers_that_tell():
    assert telling(torch.tensor([[0.25, 0.75], [0.75, 0.25]]))
    assert not telling(torch.tensor([[0.25, 0.75], [0.25, 0.75]])), "constant"
    assert not telling(torch.tensor([[0.0, 1.0], [1.0, 0.0]])), "labels"
    assert not telling(torch.full((2, 2), torch.nan))


def test_names_that_are_attributes_are_not_read():
    source = "mean = {}\ndef f(x):\n    return x.mean()"
    assert content_key(defined(source.format(1))) == content_key(defined(source.format(2)))


def test_content_that_holds_itself():
    assert content_key(Recursive()) == content_key(Recursive())

    def factorial(n: int) -> int:
        return n * factorial(n - 1) if n else 1

    assert content_key(factorial) == content_key(factorial)


def test_modules_that_are_used_again_tell_models_apart():
    first, second, middle = nn.Linear(3, 3), nn.Linear(3, 3), nn.Tanh()
    orders = [
        (first, middle, second),
        (first, middle, second, middle),
        (first, middle, second, middle, first),
        (first, second, first, second),
        (first, second, second, first),
    ]
    keys = [content_key(nn.Sequential(*order)) for order in orders]
    assert len(set(keys)) == len(orders)
    assert keys == [content_key(copy.deepcopy(nn.Sequential(*order))) for order in orders]


@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr", "bsc"])
@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_tensors_count_by_what_they_hold(layout):
    dense = torch.tensor([[0.0, 2.0, 0.0, 0.0], [1.0, 0.0, 3.0, 0.0]])

    def sparse(values: torch.Tensor) -> torch.Tensor:
        block = ((1, 2),) if layout.startswith("b") else ()
        return getattr(values, "to_sparse" if layout == "coo" else f"to_sparse_{layout}")(*block)

    key = content_key(sparse(dense))
    assert key == content_key(sparse(dense.clone()))
    assert key != content_key(sparse(dense + dense))
    assert key != content_key(sparse(dense.flip(0)))
    assert key != content_key(sparse(torch.cat([dense, torch.zeros(1, 4)])))
    module = torch.nn.Linear(2, 2)
    module.register_buffer("adjacency", sparse(dense))
    assert content_key(module) != content_key(torch.nn.Linear(2, 2))
