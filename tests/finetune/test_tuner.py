"""The tuner: what it trains, what it leaves alone, and what it refuses."""

from __future__ import annotations

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
)

from quantus_ext.engine.bridges import Bridge
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.replacements import replace_by
from quantus_ext.finetune import (
    FineTuner,
    MaskSampler,
    clear_memory,
    resolve_tuned_model,
    training,
)
from tests.finetune.problem import data, make_tuner, masks, network, weights


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


# What it does


def test_it_improves_accuracy_under_masks():
    digits = load_digits()
    x = torch.from_numpy(digits.images / 16).float().unsqueeze(1)
    y = torch.from_numpy(digits.target)
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = shuffled[:1200], shuffled[1200:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimiser = torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[train]), y[train]).backward()
            optimiser.step()
    model.eval()
    white = MaskSampler(perturbation=replace_by(1.0), beta=0.2)

    def accuracy(network: nn.Module) -> float:
        with torch.no_grad():
            return float((network(white.at(x[test], 0.2)).argmax(1) == y[test]).double().mean())

    tuner = FineTuner(x[train], y[train], epochs=5, lr=0.01, display_progressbar=False)
    tuned = tuner(model, white)
    assert accuracy(model) < 0.65
    assert accuracy(tuned) > 0.75
    assert tuner.report.accuracy > tuner.report.accuracy_before
    assert 1 <= tuner.report.kept_epoch <= tuner.report.epochs <= 5
    assert tuner.report.seconds > 0


@pytest.mark.parametrize(
    "last", [(nn.Softmax(-1),), (nn.Sequential(nn.Identity(), nn.Softmax(1)),)]
)
def test_a_softmax_module_at_the_end_changes_nothing(last):
    """Cross-entropy is that of the logits, so weights are those of the same network without it."""
    plain = make_tuner()(network(), masks())
    tuned = make_tuner()(network(*last), masks())
    assert np.array_equal(weights(plain), weights(tuned))
    rows = torch.from_numpy(data()[0])
    assert torch.equal(tuned(rows), plain(rows).softmax(1))


class Probabilities(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.softmax(1)


def test_a_softmax_function_at_the_end_changes_nothing_but_rounding():
    # Not Adam, which makes steps of rounding errors where the gradient is 0, before batch norm.
    settings = {"optimiser": torch.optim.SGD, "lr": 0.2}
    plain = make_tuner(**settings)(network(), masks())
    tuned = make_tuner(**settings)(network(Probabilities()), masks())
    assert not np.allclose(weights(plain), weights(network()), atol=0.01)
    np.testing.assert_allclose(weights(tuned), weights(plain), atol=1e-5)


def test_training_rows_are_seen_masked_and_held_out_rows_never_trained_on():
    """Each training row once an epoch; held-out rows the same way every time."""
    x, y = data(50)
    x = x + 10  # so that a masked value, and nothing else, is 0
    seen: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    class Spy(MaskSampler):
        def __call__(self, rows, draw=0, index=None):
            masked = super().__call__(rows, draw, index)
            assert np.array_equal(rows.numpy(), x[index])
            seen.append((draw, index, masked))
            return masked

    spied = Spy(perturbation=replace_by(0.0), beta=0.3)
    trained: list[bool] = []
    model = network()
    model[0].register_forward_hook(lambda module, *_: trained.append(module.training))
    make_tuner(x, y, validation_fraction=0.2, epochs=3, patience=3)(model, spied)
    # Of a few inputs the masks are for the cache, which compares them.
    assert seen.pop(0)[1].tolist() == list(range(8))
    # The first passes, for the cache, for what hooks do to gradients, and for the shapes,
    # see a few whole inputs.
    assert len(seen) == len(trained) - 3
    fits = [s for s, fit in zip(seen, trained[3:], strict=True) if fit]
    held = [s for s, fit in zip(seen, trained[3:], strict=True) if not fit]
    for epoch in (1, 2, 3):
        rows = torch.cat([index for draw, index, _ in fits if draw == epoch])
        assert len(rows) == len(set(rows.tolist())) == 40
    held_out = {i for _, index, _ in held for i in index.tolist()}
    assert len(held_out) == 10
    assert not held_out & {i for _, index, _ in fits for i in index.tolist()}
    removed = torch.cat([(masked == 0).sum(1) for _, _, masked in fits])
    assert removed.unique().tolist() == [0, 1, 2, 3]
    # Held-out data are masked the same way before and after every epoch.
    passes = torch.cat([masked for _, _, masked in held]).reshape(4, -1, 10)
    assert all(torch.equal(later, passes[0]) for later in passes[1:])


def test_the_checkpoint_is_the_latest_that_is_as_good_as_the_best(monkeypatch):
    x, y = data()
    outcomes = iter(
        [
            *[(0.5, 1.0), (0.7, 0.9), (0.7, 0.8)],
            (0.3, 0.1),  # not better, but its loss is the lowest: patience starts anew
            # Held-out data are few: 0.68 is within a standard error of 0.7.
            *[(0.68, 0.8), (0.2, 0.1), (0.3, 0.2)],
        ]
    )
    snapshots: list[np.ndarray] = []

    def scripted(run):
        snapshots.append(weights(run.model))
        return training._HeldOut(*next(outcomes))

    monkeypatch.setattr(training._Run, "held_out", scripted)
    tuner = make_tuner(x, y, epochs=10)
    tuned = tuner(network(), masks())
    report = tuner.report
    assert (report.epochs, report.kept_epoch) == (6, 4), "patience is 3, an equal is not better"
    assert (report.accuracy_before, report.accuracy) == (0.5, 0.68)
    assert np.array_equal(weights(tuned), snapshots[4])


def test_a_training_that_only_harms_is_told(monkeypatch):
    tuner = make_tuner(lr=5.0)
    outcomes = iter([(0.9, 1.0), (0.2, 5.0), (0.3, 5.0)])
    monkeypatch.setattr(training._Run, "held_out", lambda run: training._HeldOut(*next(outcomes)))
    with pytest.warns(RuntimeWarning, match=r"from 0.900 to 0.300; a smaller lr than 5.0"):
        tuner(network(), masks())
    assert tuner.report.kept_epoch == 2


@pytest.mark.parametrize("n", [3, 4, 17, 19, 36, 37])
def test_batch_norm_with_any_number_of_rows(n):
    tuned = make_tuner(*data(n), batch_size=2, epochs=1)(network(), masks())
    assert not tuned.training


@pytest.mark.parametrize(("n", "size"), [(2, 2), (3, 2), (65, 64), (129, 64), (130, 64), (7, 3)])
def test_batches_are_even_and_never_of_one_row(n, size, monkeypatch):
    rows: list[int] = []
    x, y = data(n + 1)
    model = network()
    hook = lambda module, args, _: rows.append(len(args[0])) if module.training else None  # noqa: E731
    model[0].register_forward_hook(hook)
    make_tuner(x, y, batch_size=size, epochs=1, validation_fraction=0.001)(model, masks())
    assert sum(rows) == n
    assert min(rows) >= 2
    assert max(rows) - min(rows) <= 1
    assert max(rows) <= max(size, 3)


class Centred(nn.Module):
    """Follows the mean of its inputs in a buffer that state dicts leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()
        self.register_buffer("mean", torch.zeros(10), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean(0), 0.5)
        return self.body(x - self.mean)


def test_buffers_that_are_not_saved_are_kept(tmp_path):
    x, y = data()
    model = Centred().eval()
    tuned = make_tuner(x + 3, y, cache_dir=tmp_path)(model, masks(0.1))
    assert not model.mean.any()
    assert tuned.mean.mean() > 2
    clear_memory()
    again = make_tuner(x + 3, y, cache_dir=tmp_path)(model, masks(0.1))
    assert torch.equal(again.mean, tuned.mean)


class Attentive(nn.Module):
    """Registers the softmax of its attention last."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.body, self.attention = nn.Linear(10, 10), network(), nn.Softmax(-1)
        nn.init.zeros_(self.score.weight)
        nn.init.constant_(self.score.bias, 3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(10 * x * self.attention(self.score(x)))


class AttentiveOtherwise(Attentive):
    def __init__(self) -> None:
        super().__init__()
        attention = self.attention
        del self.attention
        body = self.body
        del self.body
        self.attention, self.body = attention, body


def test_a_softmax_inside_that_is_registered_last_stays():
    tuned = make_tuner()(Attentive().eval(), masks())
    expected = make_tuner()(AttentiveOtherwise().eval(), masks())
    for part in ("score", "body"):
        assert np.array_equal(weights(getattr(tuned, part)), weights(getattr(expected, part)))
    rows = torch.from_numpy(data()[0])
    with torch.no_grad():
        outputs = tuned(rows)
    for softmax in (False, True):
        asked = Forward.of_module(tuned, torch.device("cpu"), softmax=softmax).clean(rows)
        torch.testing.assert_close(asked, outputs.softmax(1) if softmax else outputs)


def test_autocast_of_the_caller_changes_nothing():
    expected = weights(make_tuner()(network(), masks()))
    clear_memory()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tuned = make_tuner()(network(), masks())
    assert np.array_equal(weights(tuned), expected)


def test_running_statistics_are_of_the_copy():
    model = network()
    before = model[1].running_mean.clone()
    tuned = make_tuner()(model, masks())
    assert torch.equal(model[1].running_mean, before)
    assert not torch.equal(tuned[1].running_mean, before)
    assert int(tuned[1].num_batches_tracked) == 18


def test_dropout_is_on_in_training():
    with_dropout = make_tuner()(network(dropout=0.5), masks())
    without = make_tuner()(network(), masks())
    assert not np.array_equal(weights(with_dropout), weights(without))


class OwnMode(nn.Module):
    """Asks for its own mode, as functional dropout does, and ends in a softmax."""

    seen: list[bool] = []  # noqa: RUF012 - shared by copies on purpose

    def __init__(self) -> None:
        super().__init__()
        self.body = network()
        self.last = nn.Softmax(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(self.training)
        return self.last(self.body(x))


def test_a_network_without_its_softmax_is_in_training_mode_too():
    OwnMode.seen.clear()
    tuned = make_tuner(epochs=1)(OwnMode().eval(), masks())
    n_batches = 9
    assert OwnMode.seen.count(True) == n_batches
    assert modes(tuned) == [False] * len(modes(tuned))


def test_frozen_weights_are_trained_in_the_copy_and_flags_kept():
    model = network()
    model[0].weight.requires_grad_(False)
    tuned = make_tuner()(model, masks())
    assert not torch.equal(tuned[0].weight, model[0].weight)
    flags = [p.requires_grad for p in tuned.parameters()]
    assert flags == [False] + [True] * (len(flags) - 1)
    assert all(p.grad is None for p in tuned.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_of_weights(dtype):
    model = network().to(dtype)
    tuned = make_tuner()(model, masks())
    assert tuned[0].weight.dtype == dtype
    assert not torch.equal(tuned[0].weight, model[0].weight)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_recorded_whatever_the_caller_does(mode):
    expected = weights(make_tuner()(network(), masks()))
    model, tuner = network(), make_tuner()
    clear_memory()
    with mode():
        tuned = tuner(model, masks())
    assert np.array_equal(weights(tuned), expected)
    assert not any(p.is_inference() for p in tuned.parameters())


def test_without_labels_it_learns_the_predictions():
    x, _ = data()
    model = network()
    with torch.no_grad():
        y = model(torch.from_numpy(x)).argmax(1)
    predicted = make_tuner(x)(model, masks())
    assert np.array_equal(weights(predicted), weights(make_tuner(x, y)(model, masks())))


def test_loaders_and_data_sets_give_the_same_as_arrays():
    x, y = map(torch.from_numpy, data())
    expected = weights(make_tuner(x, y)(network(), masks()))
    for source in (TensorDataset(x, y), DataLoader(TensorDataset(x, y), batch_size=7)):
        assert np.array_equal(weights(make_tuner(source, None)(network(), masks())), expected)


class Broken(Dataset):
    def __len__(self) -> int:
        return 9

    def __getitem__(self, index):
        raise KeyError("lost")


def test_a_shuffling_loader_is_read_in_one_order():
    pairs = TensorDataset(*map(torch.from_numpy, data()))
    generator = torch.Generator().manual_seed(8)
    shuffled = []
    for _ in range(2):
        shuffled.append(make_tuner(DataLoader(pairs, batch_size=7, shuffle=True)).data)
        torch.rand(1)  # the state of the global generator makes no difference
    assert shuffled[0].key == shuffled[1].key
    assert not torch.equal(shuffled[0].x, pairs.tensors[0])
    before = generator.get_state()
    own = [make_tuner(DataLoader(pairs, shuffle=True, generator=generator)).data for _ in range(2)]
    assert own[0].key == own[1].key
    assert torch.equal(generator.get_state(), before)
    sampler = RandomSampler(pairs, generator=generator)
    batches = BatchSampler(sampler, 16, drop_last=False)
    for loader in (DataLoader(pairs, sampler=sampler), DataLoader(pairs, batch_sampler=batches)):
        assert make_tuner(loader).data.key == make_tuner(loader).data.key
        assert torch.equal(generator.get_state(), before)
    broken = DataLoader(Broken(), shuffle=True, generator=generator)
    with pytest.raises(KeyError, match="lost"):
        make_tuner(broken)
    assert torch.equal(generator.get_state(), before)


# What it leaves alone


def random_states() -> list[object]:
    legacy = np.random.get_state()  # noqa: NPY002
    return [random.getstate(), legacy[1].tobytes(), legacy[2], torch.get_rng_state().tolist()]


def scaled(arr: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, arr * np.random.rand(), arr)  # noqa: NPY002


def test_the_callers_model_and_global_states_are_untouched():
    x, y = data()
    model = network(dropout=0.3)
    model[0].weight.requires_grad_(False)
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    kept = copy.deepcopy(model.state_dict())
    # Away from any state that an earlier seeding may have left.
    random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    states = random_states()
    loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), shuffle=True)
    tuned = make_tuner(loader)(model, masks(by=Bridge(scaled, "mask")))
    assert random_states() == states
    assert all(torch.equal(model.state_dict()[name], kept[name]) for name in kept)
    assert modes(model) == [False] * len(modes(model))
    assert [p.requires_grad for p in model.parameters()][:2] == [False, True]
    assert all(p.grad is None for p in model.parameters())
    assert len(model._forward_hooks) == 1
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in tuned.parameters()}
    assert not shared


def test_the_callers_data_are_copied():
    x, y = data()
    tuner = make_tuner(x, y)
    key = tuner.data.key
    x[:] = 0
    y[:] = 0
    assert tuner.data.x.any()
    assert tuner.data.key == key == make_tuner().data.key


def test_the_same_seed_gives_the_same_weights(trainings):
    first = weights(make_tuner()(network(dropout=0.3), masks()))
    clear_memory()
    torch.rand(5)
    again = weights(make_tuner()(network(dropout=0.3), masks()))
    other = weights(make_tuner(seed=1)(network(dropout=0.3), masks()))
    assert len(trainings) == 3
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_fresh_seed_is_fresh_once_a_tuner(trainings):
    tuner = make_tuner(seed=None)
    assert tuner.settings.seed != make_tuner(seed=None).settings.seed
    assert np.array_equal(
        weights(tuner(network(), masks())), weights(copy.deepcopy(tuner)(network(), masks()))
    )
    assert len(trainings) == 1


def test_fine_tune_is_the_call_with_default_masks(trainings):
    tuner = make_tuner()
    tuned = tuner.fine_tune(network(), beta=0.3)
    assert np.array_equal(weights(tuned), weights(tuner(network(), masks(0.3))))
    assert len(trainings) == 1


def test_pickles():
    tuner = make_tuner()
    loaded = pickle.loads(pickle.dumps(tuner))
    assert loaded.data.key == tuner.data.key
    assert np.array_equal(weights(loaded(network(), masks())), weights(tuner(network(), masks())))


# What it refuses


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": np.zeros(159, int)}, ValueError, r"y must have shape \(160,\).*has \(159,\)"),
        ({"y": np.full(160, 0.5)}, TypeError, "y must hold integers, has dtype float64"),
        ({"y": np.full(160, -1)}, ValueError, "labels in y must be at least 0, sample 0 has -1"),
        ({"x": np.zeros(160)}, ValueError, r"x must have shape \(n, F\).*has \(160,\)"),
        ({"x": np.full((160, 10), np.nan)}, ValueError, "x must be finite.*first in sample 0"),
        ({"x": [["a"]]}, TypeError, "x must be an array or tensor of numbers"),
        ({"x": np.zeros((2, 10)), "y": None}, ValueError, "at least 3 samples.*holds 2"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1, is 0"),
        ({"lr": 0.0}, ValueError, "lr must be above 0, is 0.0"),
        ({"batch_size": 1}, ValueError, "batch_size must be at least 2, is 1"),
        ({"validation_fraction": 1.0}, ValueError, "validation_fraction must be below 1, is 1"),
        ({"validation_fraction": 0}, ValueError, "validation_fraction must be above 0"),
        ({"patience": 0}, ValueError, "patience must be at least 1, is 0"),
        ({"optimiser": "adam"}, TypeError, "optimiser must be callable.*is 'adam'"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
    ],
)
def test_bad_settings(change, error, message):
    x, y = data()
    with pytest.raises(error, match=message):
        make_tuner(**{"x": x, "y": y, **change})


class Singles(IterableDataset):
    def __iter__(self):
        return iter(data()[0])


def test_bad_loaders():
    pairs = TensorDataset(*map(torch.from_numpy, data()))
    with pytest.raises(ValueError, match="y must be None with a DataLoader or Dataset as x"):
        make_tuner(pairs, data()[1])
    with pytest.raises(TypeError, match=r"x must give \(x, y\) pairs as a Singles, gives Tensor"):
        make_tuner(Singles())
    with pytest.raises(ValueError, match="must give batches, gives single samples: a DataLoader"):
        make_tuner(DataLoader(pairs, batch_size=None))
    with pytest.raises(ValueError, match="at least one batch, the DataLoader is empty"):
        make_tuner(DataLoader(pairs, sampler=[]))


def test_labels_and_data_that_do_not_fit_the_model():
    x, y = data()
    with pytest.raises(ValueError, match=r"labels in y must be below 4, the model's.*sample 0 has"):
        make_tuner(x, y + 4)(network(), masks())
    with pytest.raises(ValueError, match=r"x must hold inputs of the model.*\(10,\) do not go"):
        make_tuner()(network(features=11), masks())


@pytest.mark.parametrize(
    ("optimiser", "error", "message"),
    [
        (lambda parameters, lr: None, TypeError, "optimiser must return .* returned None"),
        (lambda parameters: None, TypeError, "optimiser must take parameters and lr=.*'lr'"),
        (torch.optim.LBFGS, ValueError, "optimiser must take steps without a closure"),
    ],
)
def test_optimisers_that_do_not_fit(optimiser, error, message):
    with pytest.raises(error, match=message):
        make_tuner(optimiser=optimiser)(network(), masks())


@pytest.mark.filterwarnings("ignore:.torch.jit.script:FutureWarning")
def test_models_that_cannot_be_tuned():
    scripted = torch.jit.script(network())
    for model in (scripted, nn.Sequential(scripted).eval()):
        with pytest.raises(TypeError, match="without a ScriptModule to be tuned"):
            make_tuner()(model, masks())
    with pytest.raises(ValueError, match="model must be in evaluation mode"):
        make_tuner()(network().train(), masks())
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, is function"):
        make_tuner()(lambda x: x, masks())
    with pytest.raises(ValueError, match="floating-point weights to be tuned, has none"):
        make_tuner()(nn.Identity().eval(), masks())
    with pytest.raises(ValueError, match="device is 'meta' but the model is on 'cpu'"):
        make_tuner(device="meta")(network(), masks())
    broken = network()
    with torch.no_grad():
        broken[0].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite outputs on masked inputs"):
        make_tuner()(broken, masks())


def test_a_model_that_cannot_be_copied():
    model = network()
    model.result = model(torch.from_numpy(data()[0]))
    with pytest.raises(ValueError, match="model cannot be copied, so pass a tuned model"):
        make_tuner()(model, masks())


# What fine_tune may be


def test_a_callable_gets_a_copy_and_the_masks():
    model, sampler = network(), masks()
    states = random_states()

    def shifted(copied: nn.Module, given: MaskSampler) -> nn.Module:
        assert given is sampler
        with torch.no_grad():
            copied[0].weight += torch.rand(1)
        return copied

    kept = model[0].weight.clone()
    first, report = resolve_tuned_model(shifted, model, sampler)
    second, _ = resolve_tuned_model(shifted, model, sampler)
    assert report is None
    assert torch.equal(model[0].weight, kept)
    assert not torch.equal(first[0].weight, kept)
    assert torch.equal(first[0].weight, second[0].weight)
    assert random_states() == states


def test_a_callable_may_train():
    def trained(copied: nn.Module, given: MaskSampler) -> nn.Module:
        copied(torch.from_numpy(data()[0])).sum().backward()
        return copied

    with torch.no_grad():
        tuned, _ = resolve_tuned_model(trained, network(), masks())
    assert tuned[0].weight.grad is not None


def test_a_ready_model_is_itself():
    ready = network()
    assert resolve_tuned_model(ready, network(), masks()) == (ready, None)


def test_a_tuner_gives_its_report():
    tuner = make_tuner()
    tuned, report = resolve_tuned_model(tuner, network(), masks())
    assert report is tuner.report
    assert isinstance(tuned, nn.Module)


def on_a_gpu() -> nn.Module:
    with FakeTensorMode(), torch.device("cuda"):
        return nn.Linear(10, 4).eval()


@pytest.mark.parametrize(
    ("fine_tune", "error", "message"),
    [
        (
            lambda model, masks: None,
            TypeError,
            "fine_tune returned must be a torch.nn.Module, is None",
        ),
        (lambda model, masks: model.train(), ValueError, "returned must be in evaluation mode"),
        (lambda model, masks: on_a_gpu(), ValueError, "is on 'cuda:0' but the model is on"),
        (
            lambda model, masks: model.to("meta"),
            ValueError,
            "fine_tune returned must be on a device, its '0.weight' is on 'meta'",
        ),
        (network().train(), ValueError, "fine_tune must be in evaluation mode"),
        (lambda model: model, RuntimeError, "fine_tune raised TypeError: .* takes 1 positional"),
        (3, TypeError, "fine_tune must be a FineTuner, a torch.nn.Module or a callable.*is 3"),
    ],
)
def test_rubbish(fine_tune, error, message):
    with pytest.raises(error, match=message):
        resolve_tuned_model(fine_tune, network(), masks())
