"""Attention rollout of vision transformers, one value a patch, against random maps and its inverse.

A ViT of ``transformers`` and one of ``timm`` learn to read digits, in patches of 4 × 4 pixels. All
maps have 7 × 7 values; metrics take them as they are, and again spread over the pixels. Run
``python -m benchmarks.rollout --threads 1`` in the repository's root; ``--quick`` takes a minute
and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.linear_model import LogisticRegression
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from benchmarks.fidelity_digits import Digits, digits
from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext import (
    ABPC,
    QGE,
    ROAR,
    Deletion,
    FFidelity,
    Fidelity,
    Infidelity,
    Insertion,
    LeRF,
    MoRF,
    RFidelity,
)
from quantus_ext.base import TorchMetric
from quantus_ext.functional import inverse, permuted

PATCH, WIDTH, DEPTH, HEADS = 4, 64, 4, 4
SIZES = (0.1, 0.3, 0.5)
LOWER = ("Infidelity", "LeRF", "Deletion")
Attentions = Callable[[nn.Module, Tensor], list[Tensor]]


def hugging_face() -> nn.Module:
    return ViTForImageClassification(
        ViTConfig(
            image_size=28,
            patch_size=PATCH,
            num_channels=1,
            hidden_size=WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            intermediate_size=2 * WIDTH,
            num_labels=10,
            attn_implementation="eager",
        )
    )


def attentions_of_hugging_face(model: nn.Module, x: Tensor) -> list[Tensor]:
    return list(model(x, output_attentions=True).attentions)


def timm() -> nn.Module:
    model = VisionTransformer(
        img_size=28,
        patch_size=PATCH,
        in_chans=1,
        num_classes=10,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=2.0,
    )
    for block in model.blocks:
        # The fused kernel does not give its attention away.
        block.attn.fused_attn = False
    return model


def attentions_of_timm(model: nn.Module, x: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    hooks = [
        block.attn.attn_drop.register_forward_hook(lambda _, __, output: found.append(output))
        for block in model.blocks
    ]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def rollout(attentions: Attentions, model: nn.Module, x: Tensor) -> Tensor:
    """Return how much of each patch reaches the class token (Abnar and Zuidema), (n, 7, 7)."""
    with torch.no_grad():
        layers = attentions(model, x)
    through = skipped = torch.eye(layers[0].shape[-1])
    for attention in layers:
        through = (attention.mean(1) + skipped) / 2 @ through
    return through[:, 0, 1:].unflatten(1, (28 // PATCH, 28 // PATCH))


def logits(output: object) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def fresh(make: Callable[[], nn.Module]) -> nn.Module:
    """Return an untrained model, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return make().eval()


def trained(make: Callable[[], nn.Module], data: Digits, epochs: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = make().train()
        steps = epochs * -(-len(data.x_train) // 64)
        optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
        for _ in range(epochs):
            for rows in torch.randperm(len(data.x_train)).split(64):
                optimiser.zero_grad()
                F.cross_entropy(logits(model(data.x_train[rows])), data.y_train[rows]).backward()
                optimiser.step()
                schedule.step()
    return model.eval()


def metrics(data: Digits, *, quick: bool) -> dict[str, TorchMetric]:
    """Return the metrics that rank patches."""
    draws, epochs = (2, 1) if quick else (10, 10)
    element = {"patch_size": PATCH}
    sized = {"sparsity": SIZES, "output": "probability", **element}
    return {
        "Fidelity": Fidelity(**sized),
        "R-Fidelity": RFidelity(n_samples=draws, **sized),
        "F-Fidelity": FFidelity(fine_tune=data.tuner(epochs), n_samples=draws, **sized),
        "MoRF": MoRF(**element),
        "LeRF": LeRF(**element),
        "ABPC": ABPC(**element),
        "Deletion": Deletion(**element),
        "Insertion": Insertion(**element),
        "QGE of ABPC": QGE(ABPC(**element)),
    }


def roar(data: Digits, a_train: Tensor, make: Callable[[], nn.Module], epochs: int) -> TorchMetric:
    """Return it for one explainer, whose maps of the training data it needs."""
    tuner = data.tuner(epochs, lr=2e-3)
    return ROAR(tuner, a_train, SIZES, build_model=make, patch_size=PATCH, output="probability")


def read_from_masks(trained_on: Tensor, data: Digits, maps: Tensor) -> float:
    """Return how many digits a linear classifier reads off which patches a map ranks highest.

    It is trained on the masks of the training data alone, and sees no pixel.
    """

    def masks(a: Tensor) -> Tensor:
        flat = a.flatten(1)
        return flat >= flat.quantile(1 - SIZES[1], dim=1, keepdim=True)

    classifier = LogisticRegression(max_iter=1000).fit(masks(trained_on), data.y_train)
    return float(classifier.score(masks(maps), data.y_test))


def infidelity(draws: int) -> TorchMetric:
    """Return it for whole patches, on maps with a value a pixel and up to their scale."""
    return Infidelity(
        n_perturb_samples=draws,
        perturb_patch_sizes=[PATCH, 2 * PATCH],
        multiply_by_inputs=True,
        rescale=True,
    )


def spread(a: Tensor) -> Tensor:
    """Return maps of patches over the pixels of the patches."""
    return a.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)


def main() -> None:
    quick = options(parser("rollout", __doc__)).quick
    page = Page("rollout", ("transformers", "timm", "mlxtend", "scikit-learn"), quick=quick)
    data = digits()
    n, epochs = (10, 1) if quick else (200, 15)
    for title, make, attentions in (
        ("Hugging Face", hugging_face, attentions_of_hugging_face),
        ("timm", timm, attentions_of_timm),
    ):
        model = trained(make, data, epochs)
        with torch.no_grad():
            answers = logits(model(data.x_test)).argmax(1)
        right = answers == data.y_test
        chosen = right.nonzero()[:n, 0]
        x, y = data.x_test[chosen], data.y_test[chosen]
        own = rollout(attentions, model, x)
        maps = {"rollout": own, "random": permuted(own), "inverse": inverse(own)}
        seen = rollout(attentions, model, data.x_train)
        trained_on = {"rollout": seen, "random": permuted(seen), "inverse": inverse(seen)}
        again = partial(fresh, make)
        compared = {
            **{name: dict.fromkeys(maps, one) for name, one in metrics(data, quick=quick).items()},
            "ROAR": {
                which: roar(data, a, again, 1 if quick else 15) for which, a in trained_on.items()
            },
        }
        rows, differences = [], []
        for name, of_map in compared.items():
            scores = [np.array(of_map[which](model, x, y, a)) for which, a in maps.items()]
            rows.append(row(name, scores))
            pixels = np.array(of_map["rollout"](model, x, y, spread(own)))
            differences.append(float(np.abs(pixels - scores[0]).max()))
        windows = infidelity(20 if quick else 200)
        rows.append(
            row("Infidelity", [np.array(windows(model, x, y, spread(a))) for a in maps.values()])
        )
        others = rollout(attentions, model, data.x_test)
        of_others = {"rollout": others, "random": permuted(others), "inverse": inverse(others)}
        read = ", ".join(
            f"{which} {read_from_masks(a, data, of_others[which]):.0%}"
            for which, a in trained_on.items()
        )
        page.add(
            title,
            f"{DEPTH} layers of width {WIDTH}, {epochs} epochs over {len(data.x_train):,} digits: "
            f"{float(right.double().mean()):.1%} of {len(right):,} others right. {len(chosen)} of "
            "these are explained. p: one-sided Wilcoxon test that rollout scores better, digit by "
            f"digit. Spread over the pixels, the same maps have scores that differ by "
            f"{max(differences):.0e} at most. Infidelity, whose windows lie anywhere, gets them "
            "spread. Digits that a linear classifier reads off which "
            f"{SIZES[1]:.0%} of the patches a map ranks highest, without any pixel: {read}.",
            markdown_table(["mean (better)", *maps, "p, random", "p, inverse"], rows),
        )


def row(name: str, scores: list[np.ndarray]) -> list[str]:
    """Return a row of the table: means, and how surely the first is the best."""
    sign = -1 if name in LOWER else 1
    better = [
        stats.wilcoxon(sign * (scores[0] - other), alternative="greater").pvalue
        for other in scores[1:]
    ]
    means = (f"{values.mean():.4f}" for values in scores)
    return [f"{name} ({'lower' if sign < 0 else 'higher'})", *means, *(f"{p:.1e}" for p in better)]


if __name__ == "__main__":
    main()
