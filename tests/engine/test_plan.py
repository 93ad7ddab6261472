"""How rows go through a model: the rule, the measured plan, precision, compilation."""

from __future__ import annotations

import copy
import gc
import itertools
import json
import time
import warnings
import weakref
from collections import OrderedDict
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quantus_ext
from quantus_ext import QGE, Deletion, Infidelity, MoRF, Plan, RFidelity
from quantus_ext.engine import compiled, forward, plan
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.plan import Execution, calibrate
from quantus_ext.engine.shared import clean_outputs_shared
from quantus_ext.evaluation import run
from tests.harness import Inputs, make_inputs, rows_seen, sorted_rows

CPU = torch.device("cpu")


@pytest.fixture
def inputs() -> Inputs:
    return make_inputs("image", n=6, dtype=torch.float32)


# A plan that is given


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_a_given_plan_is_followed_and_changes_no_draw(inputs, chunk_size, memory_format):
    given = Plan(chunk_size, memory_format)
    metric, plain = Infidelity(plan=given, n_perturb_samples=20), Infidelity(n_perturb_samples=20)
    with rows_seen(inputs.model) as seen:
        scores = inputs.call(metric)
    with rows_seen(inputs.model) as expected:
        np.testing.assert_allclose(inputs.call(plain), scores, rtol=1e-5)
    assert metric.plan == given
    # One pass tells whether the model writes to its inputs.
    assert max(map(len, seen[1:])) <= chunk_size
    assert all(
        rows.is_contiguous(memory_format=plan.LAYOUTS[memory_format]) or len(rows) == 1
        for rows in seen
    )
    drawn = sorted_rows([torch.cat(seen).unique(dim=0)])
    np.testing.assert_array_equal(drawn, sorted_rows([torch.cat(expected).unique(dim=0)]))
    assert metric.n_evaluations == plain.n_evaluations


def test_a_plan_can_be_stored_and_given_again(inputs):
    first = Infidelity(plan="calibrate", n_perturb_samples=20)
    scores = inputs.call(first)
    stored = json.loads(json.dumps(asdict(first.plan)))
    again = Infidelity(plan=Plan(**stored), n_perturb_samples=20)
    assert (inputs.call(again) == scores).all()
    assert again.plan == first.plan


def test_a_plan_must_fit_the_inputs():
    table = make_inputs("table", dtype=torch.float32)
    with pytest.raises(ValueError, match=r"memory_format must be 'contiguous' .* shape \(7,\)"):
        table.call(Infidelity(plan=Plan(8, "channels_last")))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"plan": "fast"}, TypeError, "plan must be a Plan, 'calibrate' or None, is 'fast'"),
        ({"plan": 64}, TypeError, "plan must be a Plan, 'calibrate' or None, is 64"),
        ({"plan": Plan(2), "chunk_size": 3}, ValueError, "leave one out of chunk_size=3 and plan"),
        ({"precision": "int8"}, ValueError, "precision must be one of .*, is 'int8'"),
        ({"compile": "yes"}, TypeError, "compile must be True or False, is 'yes'"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1, is 0"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Infidelity(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error"), [((0,), ValueError), ((1.5,), TypeError), ((8, "rows"), ValueError)]
)
def test_bad_plans(arguments, error):
    with pytest.raises(error):
        Plan(*arguments)


# A plan that is measured


class Clock:
    """Time that passes only in the model: so much for a pass, and so much for each row."""

    def __init__(self, a_pass: float, a_row: dict[str, float], too_many: int = 10**9) -> None:
        self.now, self.a_pass, self.a_row, self.too_many = 0.0, a_pass, a_row, too_many
        self.chunks: list[int] = []

    def __call__(self) -> float:
        return self.now

    def run(self, rows: Tensor) -> Tensor:
        last = rows.is_contiguous(memory_format=torch.channels_last)
        a_row = self.a_row["channels_last" if last and rows.shape[1] > 1 else "contiguous"]
        self.chunks.append(len(rows))
        # Beyond the cache a row takes twice as long.
        self.now += self.a_pass + a_row * len(rows) * (1 + (len(rows) > self.too_many))
        return rows.flatten(1)[:, :2]


@pytest.mark.parametrize(
    ("a_pass", "a_row", "too_many", "best"),
    [
        (1e-3, {"contiguous": 1e-6, "channels_last": 2e-6}, 10**9, Plan(256, "contiguous")),
        (1e-3, {"contiguous": 2e-6, "channels_last": 1e-6}, 10**9, Plan(256, "channels_last")),
        (1e-6, {"contiguous": 1e-4, "channels_last": 2e-4}, 20, Plan(16, "contiguous")),
        (1e-4, {"contiguous": 3e-5, "channels_last": 1e-5}, 64, Plan(64, "channels_last")),
    ],
)
def test_the_fastest_plan_is_found(monkeypatch, a_pass, a_row, too_many, best):
    clock = Clock(a_pass, a_row, too_many)
    monkeypatch.setattr(time, "perf_counter", clock)
    x = torch.rand(3, 2, 4, 4)
    assert calibrate(clock.run, x, Plan(64), ["contiguous", "channels_last"]) == best


def test_calibration_of_a_slow_model_takes_two_passes_a_layout(monkeypatch):
    clock = Clock(0.0, {"contiguous": 0.2, "channels_last": 0.1})
    monkeypatch.setattr(time, "perf_counter", clock)
    found = calibrate(clock.run, torch.rand(3, 2, 4, 4), Plan(32), ["contiguous", "channels_last"])
    assert found == Plan(32, "channels_last")
    assert clock.chunks == [32] * 4


def test_a_model_is_measured_once_and_evaluations_are_the_scores_alone(inputs, monkeypatch):
    measured = []

    def spied(*arguments: object) -> Plan:
        measured.append(arguments)
        return calibrate(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(forward, "calibrate", spied)
    monkeypatch.setattr(forward._measured, "_entries", OrderedDict())
    metric = Infidelity(plan="calibrate", n_perturb_samples=10)
    first = inputs.call(metric)
    assert metric.n_evaluations == 6 * 11
    with torch.no_grad():
        # Other weights are as fast.
        other = copy.deepcopy(inputs.model)
        next(other.parameters()).mul_(2)
    assert (inputs.call(metric) == first).all()
    inputs.call(metric, model=other)
    assert len(measured) == 1
    inputs.call(RFidelity([0.5], n_samples=4, plan="calibrate"))
    assert len(measured) == 1
    inputs.call(metric, x_batch=inputs.x[:, :, :, :], a_batch=inputs.a, softmax=True)
    table = make_inputs("table", dtype=torch.float32)
    table.call(metric)
    assert len(measured) == 2


def test_evaluate_measures_before_work_is_handed_out(inputs, monkeypatch):
    handed_out = []

    class Spied(run.Payload):
        def __init__(self, loaded: run.Loaded, *others: object) -> None:
            handed_out.extend(cell.metric.execution for cell in loaded.plan.cells)
            super().__init__(loaded, *others)

    monkeypatch.setattr(run, "Payload", Spied)
    metrics = {
        "measured": Infidelity(plan="calibrate", n_perturb_samples=4),
        "by rule": Infidelity(chunk_size=3, n_perturb_samples=4),
    }
    evaluation = quantus_ext.evaluate(
        metrics, {"random": inputs.a}, inputs.model, inputs.x, inputs.y, batch_size=2
    )
    assert evaluation.failures == ()
    assert isinstance(handed_out[0].plan, Plan)
    assert handed_out[1] == metrics["by rule"].execution
    assert metrics["measured"].execution.plan == "calibrate"


def test_where_measuring_fails_the_other_metrics_go_on(inputs, monkeypatch):
    def fail(*arguments: object) -> Plan:
        raise RuntimeError("no clock")

    monkeypatch.setattr(forward, "calibrate", fail)
    monkeypatch.setattr(forward._measured, "_entries", OrderedDict())
    metrics = {
        "measured": Infidelity(plan="calibrate", n_perturb_samples=4),
        "by rule": Infidelity(n_perturb_samples=4),
    }
    evaluation = quantus_ext.evaluate(
        metrics, {"random": inputs.a}, inputs.model, inputs.x, inputs.y, batch_size=2
    )
    (failure,) = evaluation.failures
    assert failure.metric == "measured"
    assert "measuring the plan failed: RuntimeError: no clock" in failure.error


# Precision


def test_low_precision_is_near_and_leaves_the_model_alone(inputs):
    weights = copy.deepcopy(inputs.model.state_dict())
    exact = inputs.call(Infidelity(n_perturb_samples=50))
    for precision in ("bfloat16", "float16"):
        scores = inputs.call(Infidelity(n_perturb_samples=50, precision=precision))
        assert (scores != exact).any()
        np.testing.assert_allclose(scores, exact, rtol=0.05)
    assert not torch.is_autocast_enabled("cpu")
    state = inputs.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights.items())


def test_layers_compute_in_the_precision_and_outputs_are_single():
    seen = []
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).eval()
    handle = model[0].register_forward_hook(lambda *call: seen.append(call[2].dtype))
    for precision, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        runner = Forward.of_module(model, CPU, precision=precision)
        assert runner.clean(torch.rand(5, 4)).dtype == torch.float32
        assert set(seen) == {dtype}
        seen.clear()
    handle.remove()


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"amx_bf16": True}, torch.bfloat16), ({"avx512_bf16": True}, torch.bfloat16), ({}, None)],
)
def test_auto_is_low_precision_where_the_processor_has_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert Execution(precision="auto").autocast_dtype(CPU) == expected


def test_the_callers_autocast_stays_on(inputs):
    with torch.autocast("cpu", torch.bfloat16):
        ambient = inputs.call(Infidelity(n_perturb_samples=5))
    chosen = inputs.call(Infidelity(n_perturb_samples=5, precision="bfloat16"))
    np.testing.assert_allclose(ambient, chosen, rtol=0.05)


# Compilation, with a compiler that does nothing but counts: the real one takes seconds.


class Compiler:
    def __init__(self) -> None:
        self.models = 0
        self.rows: list[int] = []

    def __call__(self, function, **options):
        assert options == {"fullgraph": True, "options": {"freezing": True}}
        self.models += 1

        def run(rows: Tensor) -> Tensor:
            self.rows.append(len(rows))
            return function(rows)

        return run


@pytest.fixture
def compiler(monkeypatch) -> Compiler:
    compiler = Compiler()
    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(compiled._compiled, "_entries", OrderedDict())
    return compiler


def test_a_compiled_model_answers_alike_and_is_found_again_by_content(inputs, compiler):
    metric = Infidelity(n_perturb_samples=20, compile=True)
    with pytest.warns(UserWarning, match="compile=True will not pay: without it all 132 eval"):
        scores = inputs.call(metric)
    np.testing.assert_array_equal(scores, inputs.call(Infidelity(n_perturb_samples=20)))
    assert compiler.models == 1
    # All rows of the score went through it, the one pass that compiled it, and the check whether
    # rows influence each other.
    assert sum(compiler.rows) == 6 + metric.n_evaluations + 12 == 6 + 126 + 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (inputs.call(metric, model=copy.deepcopy(inputs.model)) == scores).all()
    assert compiler.models == 1
    other = copy.deepcopy(inputs.model)
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    with pytest.warns(UserWarning, match="will not pay"):
        assert (inputs.call(metric, model=other) != scores).any()
    assert compiler.models == 2


def test_changes_of_the_model_do_not_reach_a_compiled_copy_unseen(inputs, compiler):
    model = copy.deepcopy(inputs.model)
    metric = Infidelity(n_perturb_samples=5, compile=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = inputs.call(metric, model=model)
        with torch.no_grad():
            # Not seen by counters of changes.
            next(model.parameters()).data *= 3
        second = inputs.call(metric, model=model)
    assert (first != second).all()
    np.testing.assert_array_equal(second, inputs.call(Infidelity(n_perturb_samples=5), model=model))


def test_one_row_goes_with_another(inputs, compiler):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner = Forward.of_module(inputs.model, CPU, compile=True, plan=Plan(1))
        outputs = runner.clean(torch.from_numpy(inputs.x))
    torch.testing.assert_close(outputs, inputs.model(torch.from_numpy(inputs.x)).detach())
    assert set(compiler.rows) == {2}
    assert runner.n_evaluations == 6


def test_what_cannot_be_compiled(inputs, compiler):
    with pytest.raises(ValueError, match=r"model that is no torch\.nn\.Module"):
        Forward(inputs.model, compile=True).clean(torch.from_numpy(inputs.x))
    handle = inputs.model[0].register_forward_hook(lambda *call: None)
    with pytest.raises(ValueError, match="compile must be False for a model with hooks, 0 has"):
        inputs.call(Infidelity(compile=True))
    handle.remove()

    class Host(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            raise RuntimeError("no graph\nof this")

    model = nn.Sequential(inputs.model, nn.Identity())
    compiler.models = 0
    key, _ = compiled.find(model, torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"model that torch\.compile does not take: no graph$"):
        compiled.compile_frozen(Host(), torch.zeros(2, 3, 8, 8), key)


@pytest.mark.slow
def test_a_real_compiler_gives_the_same_scores(tmp_path, monkeypatch):
    # What torch keeps from a process of another instruction set does not build in this one.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    table = make_inputs("table", dtype=torch.float32)
    metric = RFidelity([0.5], n_samples=20, output="probability", compile=True)
    with pytest.warns(UserWarning, match="will not pay"):
        scores = table.call(metric)
    expected = table.call(RFidelity([0.5], n_samples=20, output="probability"))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


# Clean outputs that are shared


def test_clean_outputs_are_shared_by_content(inputs, monkeypatch):
    metrics = [Infidelity(n_perturb_samples=3), Infidelity(n_perturb_samples=3, seed=1)]
    alone = [inputs.call(metric) for metric in metrics]
    counts = [metric.n_evaluations for metric in metrics]
    asked = []
    clean = Forward._clean
    monkeypatch.setattr(
        Forward, "_clean", lambda self, x, *rest: asked.append(len(x)) or clean(self, x, *rest)
    )
    with clean_outputs_shared():
        shared = [inputs.call(metric) for metric in metrics]
        copied = inputs.call(metrics[1], model=copy.deepcopy(inputs.model))
    np.testing.assert_array_equal([*shared, copied], [*alone, alone[1]])
    assert [metric.n_evaluations for metric in metrics] == counts
    assert asked == [6]


def test_a_changed_model_or_precision_is_asked_again(inputs):
    model = copy.deepcopy(inputs.model)
    calls = itertools.product((1.0, 2.0), ("float32", "bfloat16"))
    with clean_outputs_shared():
        for factor, precision in calls:
            with torch.no_grad():
                next(model.parameters()).data.mul_(factor)
            metric = Infidelity(n_perturb_samples=3, precision=precision)
            shared = inputs.call(metric, model=model)
            assert metric.n_evaluations == 24
            with clean_outputs_shared():
                np.testing.assert_array_equal(shared, inputs.call(metric, model=model))


def test_what_a_hook_reads_and_the_callers_autocast_count(inputs):
    state = [1.0]
    handle = inputs.model.register_forward_hook(lambda *call: call[2] * state[0])
    metric = Deletion(2)
    with clean_outputs_shared():
        inputs.call(metric, softmax=False)
        state[0] = 0.0
        inputs.call(metric, softmax=False)
        assert (metric.details["original_score"] == 0).all()
        handle.remove()
        with torch.autocast("cpu", torch.bfloat16):
            inputs.call(metric, softmax=False)
            low = metric.details["original_score"]
        inputs.call(metric, softmax=False)
    full = metric.details["original_score"]
    assert (low != full).any()
    inputs.call(metric, softmax=False)
    np.testing.assert_array_equal(full, metric.details["original_score"])


def test_shared_outputs_keep_no_model_alive(inputs):
    with clean_outputs_shared():
        model = copy.deepcopy(inputs.model)
        alive = weakref.ref(model)
        inputs.call(Infidelity(n_perturb_samples=2), model=model)
        del model
        gc.collect()
        assert alive() is None


# What is asked for


class Attention(nn.Module):
    """Has a softmax inside, registered last, and small outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.end, self.softmax = nn.Linear(8, 8), nn.Linear(8, 100), nn.Softmax(-1)
        with torch.no_grad():
            self.end.weight.mul_(0.05)
            self.end.bias.mul_(0.05)

    def forward(self, rows: Tensor) -> Tensor:
        return self.end(rows * self.softmax(self.gate(rows)))


def test_low_precision_leaves_no_softmax_out():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = Attention().eval(), torch.rand(5, 8)
    expected = model(x).detach()
    outputs = Forward.of_module(model, CPU, precision="bfloat16").clean(x)
    torch.testing.assert_close(outputs, expected, atol=2e-3, rtol=0.05)


class Bounded:
    """A model that fits so many rows in memory."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, rows: Tensor) -> Tensor:
        if len(rows) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows.flatten(1)[:, :2]


@pytest.mark.parametrize("how", ["calibrate", Plan(64)])
@pytest.mark.parametrize("most", [20, 5000])
def test_memory_may_run_out_however_the_plan_was_chosen(how, most):
    x = torch.rand(100, 4)
    runner = Forward(Bounded(most), plan=how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        assert torch.equal(runner.clean(x), x[:, :2])
        assert torch.equal(runner(x.repeat(60, 1)), x[:, :2].repeat(60, 1))
    assert runner.n_evaluations == 6100
    assert runner.chunk_size <= most


def test_in_inference_mode_models_may_work_in_place():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).eval()
    shy = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)).eval()
    x, y = torch.linspace(-1, 1, 20).reshape(5, 4), torch.tensor([0, 1, 0, 1, 0])
    for each in (model, shy):
        metric = Infidelity(n_perturb_samples=9, perturb_patch_sizes=[2])
        expected = metric(each, x, y, x)
        with torch.inference_mode():
            assert metric(each, x.clone(), y, x.clone()) == expected


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "metric",
    [
        Infidelity(n_perturb_samples=40),
        Infidelity(perturb_baseline="uniform", n_perturb_samples=40),
        RFidelity([0.3], n_samples=3),
        MoRF(4),
        QGE(MoRF(4)),
    ],
    ids=lambda metric: metric.name,
)
def test_rows_reach_the_model_in_the_planned_layout(metric, channels):
    """Of one channel, torch calls every layout contiguous, and strides alone tell which it is."""
    model = nn.Sequential(nn.Conv2d(channels, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 2))
    x = np.random.default_rng(0).normal(size=(5, channels, 8, 8)).astype(np.float32)
    x[:, :, :4] = x.min()
    strides = []
    model.register_forward_pre_hook(lambda _, rows: strides.append(rows[0].stride()))
    metric(model.eval(), x, np.array([0, 1, 0, 1, 0]), np.abs(x))
    assert metric.plan.memory_format == "channels_last"
    # The rows that show whether a softmax is there are not among those that are many.
    wanted = torch.empty(2, channels, 8, 8, memory_format=torch.channels_last).stride()
    assert set(strides) == {wanted}
