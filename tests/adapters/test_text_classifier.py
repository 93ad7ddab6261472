"""Hugging Face classifiers with their tokenizers."""

from __future__ import annotations

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from quantus.functions.perturb_func import gaussian_noise

from quantus_ext import ROAR, Deletion, FFidelity, FineTuner, Infidelity
from quantus_ext.adapters import TextClassifier, TokenIds
from tests.harness import rows_seen

WORDS = ["the", "film", "is", "good", "bad", "un", "##watch", "##able", "slow"]
TEXTS = ["The film is unwatchable", "good film", "the slow film is nosuchword good good"]


def word_pieces() -> object:
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    vocabulary = {token: i for i, token in enumerate([*special.values(), *WORDS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, **{f"{name}_token": token for name, token in special.items()}
    )


@pytest.fixture(scope="module")
def classifier() -> TextClassifier:
    tokenizer = word_pieces()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(config).eval()
    return TextClassifier(model, tokenizer)


def test_ids_words_and_tokens(classifier: TextClassifier):
    ids, words = classifier.encode(TEXTS), classifier.words(TEXTS)
    assert ids.dtype == np.int64
    assert ids.shape == words.shape
    assert classifier.tokens(ids[:1]) == [
        ["[CLS]", "the", "film", "is", "un", "##watch", "##able", "[SEP]", "[PAD]"]
    ]
    assert words[0].tolist() == [-1, 0, 1, 2, 3, 3, 3, -1, -1]
    # An unknown word is a word.
    removable = classifier.feature_mask(torch.from_numpy(ids)) >= 0
    assert removable.sum(1).tolist() == [6, 2, 7]
    assert classifier.encode(TEXTS, max_length=4).shape == (3, 4)


@pytest.mark.parametrize("removal", ["mask", "pad", "delete", "zero"])
def test_outputs_are_those_of_the_library_with_the_tokens_replaced(classifier, removal):
    model, tokenizer = classifier.model, classifier.tokenizer
    ids = torch.from_numpy(classifier.encode(TEXTS))
    rows = ids.clone()
    rows[:, 2] = TokenIds.REMOVED
    ours = TextClassifier(model, tokenizer, removal=removal)(rows)
    attended = (ids != tokenizer.pad_token_id).long()
    replaced = ids.clone()
    replaced[:, 2] = tokenizer.mask_token_id if removal == "mask" else tokenizer.pad_token_id
    given = {"input_ids": replaced}
    if removal == "delete":
        attended[:, 2] = 0
    if removal == "zero":
        embeddings = model.get_input_embeddings()(ids)
        embeddings[:, 2] = 0
        given = {"inputs_embeds": embeddings}
    with torch.no_grad():
        expected = model(**given, attention_mask=attended).logits
        torch.testing.assert_close(ours.detach(), expected)


def test_embeddings_are_asked_as_the_ids_are(classifier: TextClassifier):
    ids = torch.from_numpy(classifier.encode(TEXTS))
    embedded = classifier.over_embeddings()
    with torch.no_grad():
        torch.testing.assert_close(embedded(embedded.embed(ids)), classifier(ids))
    noise = {"perturb_func": gaussian_noise, "perturb_func_kwargs": {"perturb_std": 0.1}}
    a = np.random.default_rng(0).normal(size=(*ids.shape, 16))
    scores = Infidelity(n_perturb_samples=4, perturb_patch_sizes=[1], **noise)(
        classifier, ids.numpy(), np.array([0, 1, 0]), a
    )
    assert np.isfinite(scores).all()


def test_words_go_together(classifier: TextClassifier):
    ids, words = classifier.encode(TEXTS), classifier.words(TEXTS)
    a = np.random.default_rng(0).normal(size=ids.shape)
    metric = Deletion([0.5], element="segment")
    with rows_seen(classifier) as seen:
        metric(classifier, ids, np.array([0, 1, 0]), a, s_batch=words)
    removed = torch.cat(seen).numpy() == TokenIds.REMOVED
    of_the_first = removed[(torch.cat(seen).numpy()[:, 7] == ids[0, 7])]
    assert (of_the_first[:, 4:6] == of_the_first[:, 5:7]).all()
    assert of_the_first[:, 4].any()


def test_tuning_is_found_again_after_more_texts_were_encoded(classifier: TextClassifier):
    ids, y = classifier.encode(TEXTS * 4), np.array([0, 1, 0] * 4)
    a = np.random.default_rng(0).normal(size=ids.shape)
    tuner = FineTuner(ids, y, epochs=1, display_progressbar=False)
    metric = FFidelity([0.5], fine_tune=tuner, beta=0.5, n_samples=2)
    metric(classifier, ids[:3], y[:3], a[:3])
    classifier.encode(["good", "good film good film"], max_length=5)
    metric(classifier, ids[:3], y[:3], a[:3])
    assert metric.health.report.cache_hit


def test_tokenizers_without_what_it_needs_are_refused(classifier: TextClassifier):
    class Bare:
        pad_token_id = None
        mask_token_id = None
        unk_token_id = None
        all_special_ids = ()

    with pytest.raises(ValueError, match="tokenizer must have a padding token"):
        TextClassifier(classifier.model, Bare())
    Bare.pad_token_id = 0
    with pytest.raises(ValueError, match="mask_id must be an id with removal='mask'"):
        TextClassifier(classifier.model, Bare())


@pytest.mark.parametrize("metric", ["FFidelity", "ROAR"])
def test_copies_are_trained_without_whole_words(classifier: TextClassifier, metric: str):
    texts = [f"{first} film is unwatchable {last}" for first in ("the", "slow") for last in WORDS]
    x, s = classifier.encode(texts), classifier.words(texts)
    labels = np.arange(len(x)) % 2
    tuner = FineTuner(x, labels, s=s, epochs=2, batch_size=8, display_progressbar=False)
    a = np.random.default_rng(0).normal(size=x.shape)
    # A training row differs from a text in its removed tokens.
    seen: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if module.training:
            seen.append(args[0].clone())

    handle = classifier.register_forward_pre_hook(keep)
    if metric == "FFidelity":
        scored = FFidelity(0.5, fine_tune=tuner, element="segment", beta=0.4, n_samples=3)
    else:
        scored = ROAR(tuner, a, [0.5], element="segment")
    scores = scored(classifier, x[:4], labels[:4], a[:4], s_batch=s[:4])
    handle.remove()
    assert np.isfinite(scores).all()
    removed = (torch.cat(seen) == TokenIds.REMOVED).numpy()
    assert removed.any()
    # Of the fourth word, "unwatchable", all three tokens or none.
    places = np.flatnonzero(s[0] == 3)
    assert len(places) == 3
    assert (removed[:, places].all(1) | ~removed[:, places].any(1)).all()
    assert removed[:, places[0]].any()


def test_segments_of_training_data_must_fit():
    x = np.ones((4, 6))
    with pytest.raises(ValueError, match=r"s must hold segment ids of shape \(4, 6\), has"):
        FineTuner(x, s=np.ones((4, 5), dtype=int))
    with pytest.raises(TypeError, match="s must hold integer segment ids"):
        FineTuner(x, s=x)


@pytest.mark.slow
def test_shap_values_of_texts_are_laid_out(classifier: TextClassifier):
    shap = pytest.importorskip("shap")

    def predict(texts: list[str]) -> np.ndarray:
        ids = torch.from_numpy(classifier.encode([str(text) for text in texts]))
        with torch.no_grad():
            return classifier(ids).softmax(1).numpy()

    explainer = shap.Explainer(predict, shap.maskers.Text(classifier.tokenizer), seed=0)
    explained = explainer(TEXTS, silent=True)
    x, y = classifier.encode(TEXTS), np.array([1, 0, 1])
    maps = classifier.maps(explained, x, y)
    for row, text, values, label in zip(maps, TEXTS, explained.values, y, strict=True):
        length = len(classifier.tokenizer(text)["input_ids"])
        assert values.shape == (length, 2)
        np.testing.assert_array_equal(row[:length], values[:, label])
        assert not row[length:].any()
    # Efficiency: they sum to what all words together change.
    gone = x.copy()
    gone[classifier.removable(torch.from_numpy(x)).numpy()] = TokenIds.REMOVED
    with torch.no_grad():
        ends = [classifier(torch.from_numpy(ids)).softmax(1).numpy() for ids in (x, gone)]
    effect = (ends[0] - ends[1])[range(3), y]
    assert (np.sign(maps.sum(1)) == np.sign(effect)).all()
    with pytest.raises(ValueError, match="axis of classes behind pass y_batch"):
        classifier.maps(explained, x)
