"""The one place that asks the model: softmax, plan, memory, checks, count."""

from __future__ import annotations

import copy
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from quantus_ext.engine.forward import Forward
from quantus_ext.engine.modules import resolve_softmax
from quantus_ext.engine.plan import LAYOUTS, WORKING_SET, rule

CPU = torch.device("cpu")


class ViewNet(nn.Module):
    """A network that only takes activations in plain layout."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.convolution(rows).view(len(rows), -1)[:, :5]


def conv_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval()


def images(n: int = 5) -> Tensor:
    return torch.linspace(-1, 1, n * 192).sin().reshape(n, 3, 8, 8)


class OutOfMemory:
    """A model that fits ``limit`` rows."""

    def __init__(self, limit: int, error: Exception | None = None) -> None:
        self.limit = limit
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")
        self.sizes: list[int] = []

    def __call__(self, rows: Tensor) -> Tensor:
        self.sizes.append(len(rows))
        if len(rows) > self.limit:
            raise self.error
        return torch.stack([rows.sum(1), rows[:, 0]], 1)


# Softmax


class Attention(nn.Module):
    """Has a softmax inside, not at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.softmax = nn.Softmax(dim=-1)
        self.head = nn.Linear(4, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.softmax(rows))


def _linear() -> nn.Linear:
    return nn.Linear(4, 3)


def _deep() -> nn.Module:
    return nn.Sequential(nn.Sequential(nn.Sequential(_linear(), nn.Softmax(-1))))


MODELS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "logits": (_linear, False),
    "flat": (lambda: nn.Sequential(_linear(), nn.Softmax(-1)), True),
    "nested": (_deep, True),
    "inside": (Attention, False),
    "alone": (lambda: nn.Softmax(-1), True),
}


@pytest.mark.parametrize(("build", "has_softmax"), MODELS.values(), ids=MODELS)
def test_softmax_is_added_left_out_or_kept(build, has_softmax):
    model, x = build().eval(), torch.randn(6, 4)
    before = copy.deepcopy(model.state_dict()), list(model.named_modules())
    as_it_is = model(x)
    probabilities = resolve_softmax(model, softmax=True)(x)
    logits = resolve_softmax(model, softmax=False)(x)
    torch.testing.assert_close(logits.softmax(-1), probabilities)
    assert torch.equal(probabilities if has_softmax else logits, as_it_is)
    assert not torch.allclose(logits, probabilities)
    # The caller's model is as it was.
    assert list(model.named_modules()) == before[1]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before[0].items())
    assert torch.equal(model(x), as_it_is)


def test_hooks_and_weights_are_shared():
    model, x = nn.Sequential(nn.Sequential(_linear(), nn.Softmax(-1))).eval(), torch.randn(6, 4)
    logits = resolve_softmax(model, softmax=False)
    handle = model[0][0].register_forward_hook(lambda module, args, output: output * 0)
    assert (logits(x) == 0).all()
    handle.remove()
    before = logits(x)
    with torch.no_grad():
        model[0][0].weight.mul_(2)
        model[0][0].bias.mul_(2)
    assert torch.equal(logits(x), 2 * before)
    assert {id(p) for p in logits.parameters()} == {id(p) for p in model.parameters()}


def test_softmax_none_leaves_the_model_and_its_keywords_are_passed():
    class Tempered(nn.Module):
        def forward(self, rows: Tensor, temperature: float) -> Tensor:
            return rows / temperature

    x, keywords = torch.randn(3, 4), {"temperature": 2.0}
    # The keywords are the model's: a softmax that is added has no use for them.
    for softmax, expected in ((None, x / 2), (False, x / 2), (True, (x / 2).softmax(-1))):
        forward = Forward.of_module(Tempered(), CPU, softmax=softmax, predict_kwargs=keywords)
        torch.testing.assert_close(forward.clean(x), expected)


# Plan


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        (conv_net(), "channels_last"),
        (ViewNet().eval(), "contiguous"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).eval(), "contiguous"),
    ],
)
def test_channels_last_where_the_model_convolves_and_accepts_it(model, layout):
    x = images(40)
    forward = Forward.of_module(model, CPU, chunk_size=16)
    torch.testing.assert_close(forward.clean(x), model(x).detach())
    assert forward.plan.memory_format == layout
    buffer = forward.buffer(x, 7)
    assert buffer.shape == (7, 3, 8, 8)
    assert buffer.is_contiguous(memory_format=LAYOUTS[layout])
    torch.testing.assert_close(forward(buffer.copy_(x[:7])), model(x[:7]).detach())
    assert x.is_contiguous()


def test_the_chunk_follows_the_widest_activation():
    chunks = {}
    for width in (1, 64, 4096):
        model = nn.Sequential(nn.Linear(4, 64 * width), nn.ReLU(), nn.Linear(64 * width, 3)).eval()
        forward = Forward.of_module(model, CPU)
        forward.clean(torch.randn(8, 4))
        chunks[width] = forward.chunk_size
    # As many rows of 4096 numbers as fit the working set, never above 4096; below 64 only where
    # the allocator would not keep them.
    assert chunks == {1: 4096, 64: WORKING_SET["cpu"] // (4 * 4096), 4096: 25}


@pytest.mark.parametrize(("device", "fewest"), [("cpu", 1), ("cuda", 32)])
def test_the_rule_never_gives_no_rows(device, fewest):
    assert rule(2**33, torch.device(device), "contiguous", None).chunk_size == fewest
    assert rule(2**33, torch.device(device), "contiguous", 5).chunk_size == 5


FAULTS = """
import resource, torch
from quantus_ext.engine.plan import KEPT_BLOCK, keep_freed_memory

def fill():
    blocks = [torch.ones(KEPT_BLOCK, dtype=torch.uint8) for _ in range(2)]

torch.set_num_threads(1)
keep_freed_memory()
for _ in range(8):
    fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators do otherwise")
def test_freed_memory_is_kept():
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    faults = int(subprocess.check_output([sys.executable, "-c", FAULTS], env=plain))
    # Without it they are 102,144 in most processes, of pages of 4 KiB, and none where the heap
    # happens to lie well.
    assert faults < 100


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 1000])
def test_a_chosen_chunk_size_is_the_most_rows_of_a_pass(chunk_size):
    predict = OutOfMemory(limit=10**6)
    x = torch.randn(150, 4)
    forward = Forward(predict, chunk_size=chunk_size)
    outputs = forward.clean(x)
    assert torch.equal(forward.clean(x), outputs)
    assert torch.equal(forward(x), outputs)
    assert torch.equal(outputs[:, 0], x.sum(1))
    assert max(predict.sizes) == min(chunk_size, 150)
    assert forward.chunk_size == chunk_size
    assert forward.n_evaluations == sum(predict.sizes) == 450


def test_no_plan_before_the_first_pass():
    with pytest.raises(RuntimeError, match=r"call clean\(\) or settle\(\) first"):
        Forward(OutOfMemory(1)).buffer(torch.zeros(1, 4), 1)


# Memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 5, 24])
def test_chunks_shrink_where_memory_runs_out(limit, error):
    predict = OutOfMemory(10**6, error)
    x = torch.randn(25, 4)
    forward = Forward(predict, chunk_size=25)
    expected = forward.clean(x)
    predict.limit = limit
    predict.sizes.clear()
    with pytest.warns(ResourceWarning, match="memory ran out at 25 rows per forward pass; cont"):
        outputs = forward(x)
    assert torch.equal(outputs, expected)
    assert forward.chunk_size <= limit
    # From then on no pass is tried that cannot fit.
    predict.sizes.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(forward(x), expected)
    assert max(predict.sizes) <= limit
    assert forward.n_evaluations == 75


def test_chunks_shrink_where_the_system_has_no_more_memory():
    # What torch says then depends on the system, so this one asks it for too much.
    def predict(rows: Tensor) -> Tensor:
        torch.empty(2**55 if len(rows) > 3 else 1, dtype=torch.uint8)
        return rows[:, :2]

    x = torch.randn(8, 4)
    with pytest.warns(ResourceWarning, match="memory ran out at 8 rows"):
        assert torch.equal(Forward(predict, chunk_size=8).clean(x), x[:, :2])


def test_memory_may_run_out_on_the_first_pass():
    predict, x = OutOfMemory(3), torch.randn(25, 4)
    forward = Forward(predict)
    with pytest.warns(ResourceWarning, match="memory ran out"):
        outputs = forward.clean(x)
    assert torch.equal(outputs[:, 0], x.sum(1))
    assert forward.n_evaluations == 25


@pytest.mark.parametrize(
    ("limit", "error"),
    [
        (0, torch.OutOfMemoryError("CUDA out of memory")),
        (10, RuntimeError("mat1 and mat2 shapes cannot be multiplied")),
        (10, KeyError("weights")),
    ],
)
def test_what_smaller_chunks_cannot_help_is_raised(limit, error):
    predict = OutOfMemory(10**6, error)
    forward = Forward(predict, chunk_size=11)
    forward.clean(torch.randn(11, 4))
    predict.limit = limit
    predict.sizes.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(type(error)) as raised:
            forward(torch.randn(11, 4))
    assert raised.value is error
    # Other errors are not tried again.
    assert predict.sizes[-1] == (1 if limit == 0 else 11)


# Outputs and counting


@pytest.mark.parametrize(
    ("predict", "error", "message"),
    [
        (lambda rows: (rows, rows), TypeError, "must return a tensor, returned tuple"),
        (lambda rows: rows.numpy(), TypeError, "must return a tensor, returned ndarray"),
        (lambda rows: rows.sum(1), ValueError, r"\(5, classes\), has \(5,\)"),
        (lambda rows: rows[:, None], ValueError, r"\(5, classes\), has \(5, 1, 4\)"),
        (lambda rows: rows[:3], ValueError, r"\(5, classes\), has \(3, 4\)"),
    ],
)
def test_outputs_of_another_kind(predict, error, message):
    with pytest.raises(error, match=message):
        Forward(predict).clean(torch.zeros(5, 4))


@pytest.mark.parametrize("softmax", [True, False])
def test_outputs_of_another_kind_with_softmax(softmax):
    class Array(nn.Module):
        def forward(self, rows: Tensor) -> object:
            return rows.numpy()

    with pytest.raises(TypeError, match=r"must return a tensor of shape .*; returned ndarray"):
        Forward.of_module(Array(), CPU, softmax=softmax).clean(torch.zeros(5, 4))


@pytest.mark.parametrize("model", [conv_net(), ViewNet().eval()])
def test_evaluations_are_the_rows_that_the_model_saw(model):
    seen: list[int] = []
    handle = model.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    forward = Forward.of_module(model, CPU, softmax=True, chunk_size=9)
    forward.clean(images(30))
    forward(images(20))
    handle.remove()
    assert forward.n_evaluations == sum(seen) == 50


def test_no_gradients_are_kept():
    model = conv_net()
    x = images().requires_grad_()
    outputs = Forward.of_module(model, CPU).clean(x)
    assert not outputs.requires_grad
    # Tensors of inference mode could not take part in the caller's next backward pass.
    assert not outputs.is_inference()
