"""Architectures of timm and transformers, as people have them, against forward passes by hand.

Tiny random configurations in double precision. Of each model of text the curve of ``Deletion`` and
``Infidelity`` over embeddings are compared, for every removal and both paddings, with answers of
transformers to one text alone: without padding, from embeddings, with the places of the whole text
and, for decoders, at its last token. Of each model of images curves, Infidelity and Fidelity are
compared with loops over rows that are made in numpy.

Run ``python -m benchmarks.model_zoo`` in the repository's root.
"""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
import transformers
from torch import Tensor, nn

import quantus_ext
from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext.adapters import TokenIds

PAD, MASK, START, END, VOCABULARY, CLASSES = 1, 4, 0, 2, 64, 3
WORDS = (4, 8, 12)
"""Lengths of the texts, which four equal steps divide."""
STEPS = [0.25, 0.5, 0.75]
REMOVALS = ("mask", "pad", "delete", "zero")
LARGEST = 1e-4
"""Largest relative difference that is allowed."""

TINY = {
    "vocab_size": VOCABULARY,
    "pad_token_id": PAD,
    "bos_token_id": START,
    "eos_token_id": END,
    "num_labels": CLASSES,
}
ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
LLAMA = {**ENCODER, "num_key_value_heads": 2, "head_dim": 8}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}


class Text(NamedTuple):
    """A classifier of transformers: where its positions begin, and its precision."""

    name: str
    settings: dict[str, Any]
    first: int = 0
    dtype: torch.dtype = torch.float64


# RoBERTa and its kin count from the padding's id on.
AFTER_PADDING = PAD + 1
ENCODERS = [
    Text("Bert", ENCODER),
    Text("Roberta", ENCODER, AFTER_PADDING),
    Text("XLMRoberta", ENCODER, AFTER_PADDING),
    Text("Camembert", ENCODER, AFTER_PADDING),
    Text("MPNet", ENCODER, AFTER_PADDING),
    Text("Esm", {**ENCODER, "mask_token_id": MASK, "token_dropout": False}, AFTER_PADDING),
    Text("RobertaPreLayerNorm", ENCODER, AFTER_PADDING),
    Text("Longformer", {**ENCODER, "attention_window": 4}, AFTER_PADDING),
    Text("DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}),
    Text("Albert", {**ENCODER, "embedding_size": 16}),
    Text("Electra", {**ENCODER, "embedding_size": 16}),
    Text("DebertaV2", {**ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    Text("Deberta", {**ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    Text("RemBert", {**ENCODER, "input_embedding_size": 16}),
    Text("ModernBert", {**ENCODER, "global_attn_every_n_layers": 2, "local_attention": 8}),
    Text("MegatronBert", ENCODER),
    Text("Nystromformer", {**ENCODER, "num_landmarks": 4, "segment_means_seq_len": 4}),
    Text("RoFormer", {**ENCODER, "embedding_size": 16}),
    Text("XLNet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
    Text("ConvBert", {**ENCODER, "embedding_size": 16}),
]
# Some compute their biases in single precision, whatever the weights are.
DECODERS = [
    Text("GPT2", GPT),
    Text("OpenAIGPT", GPT),
    Text("CTRL", {**GPT, "dff": 48}),
    Text(
        "GPTNeo",
        {**ENCODER, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
        dtype=torch.float32,
    ),
    Text("GPTJ", {**GPT, "rotary_dim": 4}),
    Text("GPTNeoX", ENCODER),
    Text("OPT", {**ENCODER, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    Text(
        "Bloom",
        {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3},
        dtype=torch.float32,
    ),
    Text(
        "Mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}, dtype=torch.float32
    ),
    Text("Falcon", {**ENCODER, "alibi": False}, dtype=torch.float32),
    Text("Llama", LLAMA),
    Text("Mistral", LLAMA),
    Text("Qwen2", LLAMA),
    Text("Gemma", LLAMA),
    Text("Phi", ENCODER),
    Text("StableLm", LLAMA),
]
WITH_BOTH = [
    Text("Bart", {"d_model": 32, "init_std": 0.3}),
    Text("MBart", {"d_model": 32, "init_std": 0.3}),
    Text("T5", {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}),
]
LAYERS = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "decoder_start_token_id": END,
}


def classifier(text: Text) -> nn.Module:
    """Return a random model in double precision, in evaluation mode."""
    settings = {**TINY, **text.settings}
    if text in WITH_BOTH:
        settings = {**LAYERS, **settings}
    config = getattr(transformers, f"{text.name}Config")(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(transformers, f"{text.name}ForSequenceClassification")(config)
        with torch.no_grad():
            # Biases and weights of norms too, so that nothing is zero or one by chance.
            for weight in made.parameters():
                weight += 0.1 * torch.randn_like(weight)
    return made.to(text.dtype).eval()


def texts(text: Text, side: str) -> np.ndarray:
    """Return ids of different lengths, padded, with an end token unless it is for a decoder."""
    generator = np.random.default_rng(0)
    ids = np.full((len(WORDS), max(WORDS) + 3), PAD)
    end = [] if text in DECODERS else [END]
    for row, length in zip(ids, WORDS, strict=True):
        text = [START, *generator.integers(5, VOCABULARY, length), *end]
        row[slice(len(text)) if side == "right" else slice(-len(text), None)] = text
    return ids


def from_embeddings(
    model: nn.Module, text: Text, ids: Tensor, rows: Tensor, seen: Tensor
) -> Tensor:
    """Answer by hand: one text alone, shape (1, L), from embeddings (1, L, D)."""
    given: dict[str, Any] = {"attention_mask": seen}
    if text in WITH_BOTH:
        # Their classifiers take no embeddings: the decoder reads a start token, then the text.
        first = model.config.decoder_start_token_id
        base = model.transformer if text.name == "T5" else model.model
        if text.name == "MBart":
            # Its texts go round: the end token first.
            return _mbart(model, ids, rows, seen)
        start = model.get_input_embeddings()(torch.tensor([[first]]))
        states = base(
            inputs_embeds=rows,
            attention_mask=seen,
            decoder_inputs_embeds=torch.cat([start, rows[:, :-1]], 1),
            decoder_attention_mask=torch.cat([torch.ones_like(seen[:, :1]), seen[:, :-1]], 1),
        )[0]
        return model.classification_head(states[:, int((ids[0] == END).nonzero()[-1])])
    if text.name == "Longformer":
        # Its classifier reads the ids for where to attend from everywhere: at the start.
        everywhere = (ids == START).long()
        given["global_attention_mask"] = everywhere
        places = torch.arange(ids.shape[1])[None] + text.first
        states = model.longformer(inputs_embeds=rows, position_ids=places, **given)[0]
        return model.classifier(states)
    if text.name == "Esm":
        # It takes embeddings with those of places added.
        places = torch.arange(ids.shape[1]) + text.first
        rows = (rows + model.esm.embeddings.position_embeddings(places)) * seen.unsqueeze(2)
    if "position_ids" in inspect.signature(model.forward).parameters:
        given["position_ids"] = torch.arange(ids.shape[1])[None] + text.first
    return model(inputs_embeds=rows, **given).logits


def _mbart(model: nn.Module, ids: Tensor, rows: Tensor, seen: Tensor) -> Tensor:
    states = model.model(
        inputs_embeds=rows,
        attention_mask=seen,
        decoder_inputs_embeds=torch.cat([rows[:, -1:], rows[:, :-1]], 1),
        decoder_attention_mask=torch.cat([torch.ones_like(seen[:, :1]), seen[:, :-1]], 1),
    )[0]
    return model.classification_head(states[:, int((ids[0] == END).nonzero()[-1])])


def by_hand(model: nn.Module, text: Text, ids: Tensor, removed: list[int], removal: str) -> Tensor:
    """Answer by hand: a a whole text without padding, shape (L,), some of its tokens removed."""
    embed, ids = model.get_input_embeddings(), ids[None]
    rows, seen = embed(ids).clone(), torch.ones_like(ids)
    if removal == "zero":
        rows[0, removed] = 0
    else:
        rows[0, removed] = embed(torch.tensor(MASK if removal == "mask" else PAD))
    if removal == "delete":
        seen[0, removed] = 0
    return from_embeddings(model, text, ids, rows, seen)[0]


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference as a share of the largest value, of a curve of its range."""
    size = np.ptp(expected, axis=1).min() if expected.ndim == 2 else np.abs(expected).max()
    return float(np.abs(found - expected).max() / size)


def curves(text: Text, model: nn.Module, side: str, moved: str | None, removal: str) -> float:
    """Compare outputs as tokens go, the last token first."""
    ids, special = texts(text, side), [START, END]
    box = TokenIds(model, MASK, PAD, special, removal=removal, padding_side=moved)
    a = np.random.default_rng(1).normal(size=ids.shape)
    for row, phi in zip(ids, a, strict=True):
        phi[np.flatnonzero(~np.isin(row, [PAD, *special]))[-1]] = 9
    y = np.arange(len(ids)) % CLASSES
    metric = quantus_ext.Deletion(STEPS)
    metric(box, ids, y, a, softmax=False)
    expected = np.zeros_like(metric.details["curve"])
    for i, (row, phi) in enumerate(zip(ids, a, strict=True)):
        whole = row[row != PAD]
        order = np.argsort(-phi[row != PAD])
        order = order[~np.isin(whole[order], special)]
        for k, share in enumerate([0, *STEPS, 1]):
            removed = order[: round(share * len(order))].tolist()
            answer = by_hand(model, text, torch.from_numpy(whole), removed, removal)
            expected[i, k] = float(answer[y[i]])
    return difference(metric.details["curve"], expected)


def over_embeddings(text: Text, model: nn.Module, side: str, moved: str | None) -> float:
    """Compare Infidelity over embeddings, one token replaced by zeros at a time."""
    ids, special = texts(text, side), [START, END]
    box = TokenIds(model, MASK, PAD, special, padding_side=moved)
    with torch.no_grad():
        embedded = model.get_input_embeddings()(torch.from_numpy(ids)).numpy()
    a = np.random.default_rng(1).normal(size=embedded.shape)
    y = np.arange(len(ids)) % CLASSES
    scores = quantus_ext.Infidelity(perturb_patch_sizes=[1], perturb_baseline=0.0)(box, ids, y, a)
    expected = []
    predicted = (embedded * a).sum(2)
    for row, products, label in zip(ids, predicted, y, strict=True):
        whole, products = row[row != PAD], products[row != PAD]
        alone = torch.from_numpy(whole)
        clean = by_hand(model, text, alone, [], "zero")[label]
        losses = []
        for k in np.flatnonzero(~np.isin(whole, special)).tolist():
            drop = clean - by_hand(model, text, alone, [k], "zero")[label]
            losses.append((products[k] - float(drop)) ** 2)
        expected.append(np.mean(losses))
    return difference(np.array(scores), np.array(expected))


def outcome(compare: Callable[..., float], *arguments: Any) -> float | str:
    """Return a difference, or what is said in place of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = compare(*arguments)
        except ValueError as error:
            said = str(error)
            short = next((short for part, short in SAID.items() if part in said), said)
            return f"refused: {short}"
    if any("depend on its padding" in str(each.message) for each in caught):
        return "warned: sees padding"
    return found


SAID = {
    "padding_side must": "padding on this side",
    "removal='delete'": '"delete"',
    "for embeddings": "over embeddings",
}
"""Refusals by what they hold, in short."""


def of_side(text: Text, model: nn.Module, side: str) -> str:
    """Return the largest difference with padding on this side, and what is refused."""

    def outcomes(moved: str | None) -> list[float | str]:
        found = [outcome(curves, text, model, side, moved, removal) for removal in REMOVALS]
        return [*found, outcome(over_embeddings, text, model, side, moved)]

    found, note = outcomes(None), ""
    if all(each == "refused: padding on this side" or "delete" in str(each) for each in found):
        other = {"left": "right", "right": "left"}[side]
        found, note = outcomes(other), f"refused; padding_side={other!r}: "
    numbers = [each for each in found if isinstance(each, float)]
    said = sorted({each for each in found if isinstance(each, str)})
    if numbers and not max(numbers) <= LARGEST:
        raise AssertionError(f"{text.name}, padded {side}: {found}")
    return note + "; ".join([*(f"{max(numbers):.0e}" for _ in numbers[:1]), *said])


ANY_SIZE = [
    "resnet10t",
    "resnest14d",
    "densenet121",
    "regnetx_002",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "mnasnet_small",
    "ghostnet_050",
    "lcnet_035",
    "convnext_atto",
    "repvgg_a0",
    "dla46_c",
    "poolformer_s12",
    "edgenext_xx_small",
    "mobilevit_xxs",
    "fastvit_t8",
    "test_nfnet",
    "test_mambaout",
    "pvt_v2_b0",
]
ONE_SIZE = [
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "beit_base_patch16_224",
    "mixer_s16_224",
    "resmlp_12_224",
    "gmlp_ti16_224",
    "xcit_nano_12_p16_224",
    "cait_xxs24_224",
    "swin_tiny_patch4_window7_224",
    "test_maxvit",
]
"""Those whose size is part of them."""
SIDE, PATCH, WINDOW = 64, 16, 60
SPARSITY = [0.25, 0.5]


def probabilities(model: nn.Module, rows: np.ndarray, label: int) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(rows)).softmax(1)[:, label].numpy()


def without(image: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Return an image (3, S, S) with patches set to 0, in numpy."""
    made = image.copy()
    for patch in patches:
        top, left = PATCH * (patch // (SIDE // PATCH)), PATCH * (patch % (SIDE // PATCH))
        made[:, top : top + PATCH, left : left + PATCH] = 0
    return made


def image_model(name: str) -> nn.Module:
    """Return a random model of timm in double precision, whose statistics fit noise."""
    size = {"img_size": SIDE} if name in ONE_SIZE else {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=False, num_classes=5, **size).double()
        for weight in model.parameters():
            weight += 0.02 * torch.randn_like(weight)
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = None  # the mean of all batches
        model(torch.randn(16, 3, SIDE, SIDE, dtype=torch.float64))
    return model.eval()


def of_image(name: str) -> list[float]:
    """Return the largest differences of the curve, Infidelity and Fidelity of a model of timm."""
    model = image_model(name)
    generator = np.random.default_rng(0)
    x, a = generator.normal(size=(2, 2, 3, SIDE, SIDE))
    y = np.array([1, 3])
    cells = SIDE // PATCH
    relevance = a.sum(1).reshape(2, cells, PATCH, cells, PATCH).sum((2, 4)).reshape(2, -1)

    patches: dict[str, Any] = {"element": "patch", "patch_size": PATCH, "perturb_baseline": 0.0}
    deletion = quantus_ext.Deletion(STEPS, **patches)
    deletion(model, x, y, a)
    fidelity = quantus_ext.Fidelity(SPARSITY, output="probability", score="gap", **patches)
    gaps = fidelity(model, x, y, a)
    infidelity = quantus_ext.Infidelity(perturb_patch_sizes=[WINDOW], perturb_baseline=0.0)
    scores = infidelity(model, x, y, a)

    curve, expected_gaps, expected_scores = [], [], []
    for image, phi, label, ranks in zip(x, a, y, relevance, strict=True):
        order = np.argsort(-ranks)
        counts = [round(share * len(order)) for share in (0, *STEPS, 1)]
        rows = np.stack([without(image, order[:k]) for k in counts])
        curve.append(probabilities(model, rows, label))
        sizes = [int(share * len(order)) for share in SPARSITY]
        gone = np.stack([without(image, order[:k]) for k in sizes])
        kept = np.stack([without(image, order[k:]) for k in sizes])
        drops = probabilities(model, kept, label) - probabilities(model, gone, label)
        expected_gaps.append(drops.mean())
        windows = []
        for top, left in itertools.product(range(SIDE - WINDOW + 1), repeat=2):
            change = np.zeros_like(image)
            inside = np.s_[:, top : top + WINDOW, left : left + WINDOW]
            change[inside] = image[inside]
            windows.append(change)
        with torch.no_grad():
            outputs = model(torch.from_numpy(image - np.stack([0 * image, *windows])))
        drops = (outputs[0] - outputs[1:])[:, label].numpy()
        predicted = np.array([(change * phi).sum() for change in windows])
        expected_scores.append(((predicted - drops) ** 2).mean())
    return [
        difference(deletion.details["curve"], np.array(curve)),
        difference(np.array(scores), np.array(expected_scores)),
        difference(np.array(gaps), np.array(expected_gaps)),
    ]


def main() -> None:
    parsed = options(parser("model_zoo", __doc__))
    page = Page("model_zoo", ("timm", "transformers"), quick=parsed.quick)
    few = 2 if parsed.quick else None
    transformers.logging.set_verbosity_error()
    rows = []
    for text in [*ENCODERS[:few], *DECODERS[:few], *WITH_BOTH[:few]]:
        model = classifier(text)
        rows.append([text.name, *(of_side(text, model, side) for side in ("right", "left"))])
    page.add(
        f"{len(rows)} models of transformers",
        "Largest difference of a curve, as a share of its range, or of Infidelity over embeddings, "
        f"as a share of the largest score, from a computation by hand; {', '.join(REMOVALS)} and "
        "embeddings together. The curve's last token goes first.",
        markdown_table(["model", "padded right", "padded left"], rows),
    )
    names = [*ANY_SIZE[:few], *ONE_SIZE[:few]]
    found = {name: of_image(name) for name in names}
    assert all(each <= LARGEST for cells in found.values() for each in cells), found
    page.add(
        f"{len(names)} models of timm",
        "Differences as above.",
        markdown_table(
            ["model", "Deletion", "Infidelity", "Fidelity"],
            [[name, *(f"{each:.0e}" for each in cells)] for name, cells in found.items()],
        ),
    )


if __name__ == "__main__":
    main()
