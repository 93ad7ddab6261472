"""Language models: log-probabilities of continuations equal those asked by hand.

By hand, a prompt's tokens are embedded one by one, a removed one as padding or zeros, or not
attended to; the library is given embeddings, places and a mask, and answers one token after the
other.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from torch import Tensor, nn

from quantus_ext import ABPC, QGE, Deletion, Fidelity, Infidelity, RFidelity, evaluate
from quantus_ext.adapters import Generation
from tests.reference import fidelity, infidelity, removal_curves

PAD, MASK, START, END, VOCABULARY = 1, 4, 0, 2, 20
SMALL = {
    "vocab_size": VOCABULARY,
    "pad_token_id": PAD,
    "bos_token_id": START,
    "eos_token_id": END,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
    "initializer_range": 0.5,
}
BART = {
    "d_model": 16,
    "init_std": 0.5,
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 16),
    "decoder_start_token_id": END,
}
T5 = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 16,
    "num_layers": 1,
    "num_heads": 2,
    "decoder_start_token_id": PAD,
    "initializer_factor": 3.0,
}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "GPT2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 2}),
    "Llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "OPT": ("OPTConfig", "OPTForCausalLM", {"ffn_dim": 16, "word_embed_proj_dim": 16}),
    "Bart": ("BartConfig", "BartForConditionalGeneration", BART),
    "T5": ("T5Config", "T5ForConditionalGeneration", T5),
}
REMOVALS = ["mask", "pad", "delete", "zero"]
PROMPTS = [[START, 7, 12, 9, 15], [START, 8, 5, 17, 11, 6, 13]]
CONTINUATIONS = [[14, 10, 3], [16, 9]]
CONTRASTS = [[5], [18, 3, 7]]
Y = np.zeros(2, dtype=int)


def language_model(kind: str) -> nn.Module:
    config, model, settings = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(transformers, model)(getattr(transformers, config)(**{**SMALL, **settings}))
    return made.double().eval()


def wrapped(kind: str, **settings: Any) -> Generation:
    return Generation(
        language_model(kind), pad_id=PAD, mask_id=MASK, special_ids=[START], **settings
    )


def log_probabilities(
    model: nn.Module, prompt: list[int], there: list[bool], follows: list[int], removal: str
) -> list[float]:
    """Return the log-probability of each token that follows, asked one at a time."""
    embedding = model.get_input_embeddings()

    def embedded(ids: list[int]) -> list[Tensor]:
        return list(embedding(torch.tensor(ids)))

    rows = embedded(prompt)
    stand_in = {"mask": MASK, "pad": PAD, "delete": PAD}
    for place, stays in enumerate(there):
        if not stays:
            zero = removal == "zero"
            rows[place] = torch.zeros_like(rows[0]) if zero else embedded([stand_in[removal]])[0]
    attended = [1 if stays or removal != "delete" else 0 for stays in there]
    found = []
    for done, token in enumerate(follows):
        said = follows[:done]
        if model.config.is_encoder_decoder:
            output = model(
                inputs_embeds=torch.stack(rows)[None],
                attention_mask=torch.tensor([attended]),
                decoder_input_ids=torch.tensor([[model.config.decoder_start_token_id, *said]]),
            )
        else:
            whole = [*rows, *(embedded(said) if said else [])]
            places = torch.arange(len(whole))[None]
            # OPT counts in its own way where it is not told.
            output = model(
                inputs_embeds=torch.stack(whole)[None],
                attention_mask=torch.tensor([[*attended, *[1] * done]]),
                position_ids=places,
            )
        found.append(float(output.logits[0, -1].log_softmax(0)[token]))
    return found


def removable(sample: int) -> list[int]:
    return list(range(1, len(PROMPTS[sample])))


def slowly(
    model: nn.Module, sample: int, removal: str, output: str | int, contrast: bool, softmax: bool
) -> Callable[[np.ndarray], np.ndarray]:
    """Return what answers rows that say which of a prompt's tokens are there."""

    def reduced(values: list[float]) -> float:
        if isinstance(output, int):
            return values[output]
        return float(np.sum(values) if output == "sum" else np.mean(values))

    def answers(rows: np.ndarray) -> np.ndarray:
        found = []
        for row in rows:
            there = [True, *row.astype(bool).tolist()]
            asked = (model, PROMPTS[sample], there)
            with torch.no_grad():
                value = reduced(log_probabilities(*asked, CONTINUATIONS[sample], removal))
                if contrast:
                    value -= reduced(log_probabilities(*asked, CONTRASTS[sample], removal))
            if softmax:
                value = 1 / (1 + np.exp(-value)) if contrast else np.exp(value)
            found.append([value])
        return np.array(found)

    return answers


def rows_of(model: Generation) -> np.ndarray:
    return model.encode(PROMPTS, CONTINUATIONS, CONTRASTS if model.contrast else None)


@pytest.mark.slow
@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("kind", KINDS)
def test_answers_equal_those_by_hand(kind: str, removal: str):
    for output, contrast in (("sum", False), ("mean", True), (0, False), (-1, True)):
        model = wrapped(kind, removal=removal, output=output, contrast=contrast)
        x = rows_of(model)
        for sample in range(2):
            t = len(removable(sample))
            states = np.random.default_rng(0).random((3, t)) < 0.5
            states[0], states[1] = True, False
            rows = np.tile(x[sample], (3, 1))
            rows[:, 1 : 1 + t][~states] = Generation.REMOVED
            with torch.no_grad():
                found = model(torch.from_numpy(rows))
            ask = slowly(model.model.model, sample, removal, output, contrast, softmax=False)
            expected = ask(states)
            np.testing.assert_allclose(found[:, :1].numpy(), expected, rtol=1e-8)
            probability = 1 / (1 + np.exp(-expected)) if contrast else np.exp(expected)
            np.testing.assert_allclose(found.softmax(1)[:, :1].numpy(), probability, rtol=1e-8)


@pytest.mark.parametrize(("kind", "contrast"), [("GPT2", False), ("T5", True)])
def test_scores_equal_those_by_hand(kind: str, contrast: bool):
    model = wrapped(kind, contrast=contrast)
    x = rows_of(model)
    a = np.random.default_rng(3).normal(size=x.shape)
    call = (model, x, Y, a)

    def by_hand(score: Callable[..., np.ndarray], softmax: bool, **settings: Any) -> list[float]:
        found: list[float] = []
        for sample in range(2):
            ask = slowly(model.model.model, sample, "delete", "sum", contrast, softmax)
            own = removable(sample)
            ones, zero = np.ones((1, len(own))), np.zeros(1, dtype=int)
            part = a[sample : sample + 1, own]
            found += list(score(ask, ones, zero, part, np.array([sample]), **settings))
        return found

    settings = {"sparsity": (0.3, 0.6), "alpha": 0.5, "n_samples": 3, "output": "probability"}
    np.testing.assert_allclose(
        RFidelity(**settings)(*call), by_hand(fidelity.fidelity, True, **settings), rtol=1e-8
    )
    fractions = [0.0, 0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(
        Deletion(4)(*call),
        by_hand(removal_curves.removal_score, True, name="deletion", fractions=fractions),
        rtol=1e-8,
    )
    metric = Infidelity(scheme="subset", subset_fraction=0.5, multiply_by_inputs=True)
    # Three of six tokens, and two of four: all that are possible, each once.
    expected = []
    for sample, side in ((0, 2), (1, 3)):
        own = removable(sample)
        expected += list(
            infidelity.infidelity(
                slowly(model.model.model, sample, "delete", "sum", contrast, False),
                np.ones((1, len(own))),
                np.zeros(1, dtype=int),
                a[sample : sample + 1, own],
                np.array([sample]),
                side=side,
                n_draws=20,
                baseline=0.0,
                multiply_by_inputs=True,
            )
        )
    np.testing.assert_allclose(metric(*call), expected, rtol=1e-8)
    assert np.isfinite(QGE(ABPC(3))(*call)).all()


@pytest.mark.parametrize("kind", ["Llama", "Bart"])
def test_a_sample_scores_alike_alone_and_in_any_chunk(kind: str):
    model = wrapped(kind)
    x = rows_of(model)
    a = np.random.default_rng(3).normal(size=x.shape)
    expected = Deletion(4)(model, x, Y, a)
    np.testing.assert_allclose(Deletion(4, chunk_size=1)(model, x, Y, a), expected, rtol=1e-9)
    for sample in range(2):
        alone = model.encode(PROMPTS[sample : sample + 1], CONTINUATIONS[sample : sample + 1])
        part = a[sample : sample + 1, : alone.shape[1]]
        found = Deletion(4)(model, alone, Y[:1], part, index_batch=np.array([sample]))
        np.testing.assert_allclose(found, expected[sample : sample + 1], rtol=1e-9)


def test_low_precision_is_that_of_logits_alone():
    model = Generation(language_model("GPT2").bfloat16(), pad_id=PAD)
    x = torch.from_numpy(model.encode(PROMPTS, CONTINUATIONS))
    logits: list[Tensor] = []
    keep = model.model.model.register_forward_hook(lambda *args: logits.append(args[2].logits))
    with torch.no_grad():
        found = model(x)[:, 0]
    keep.remove()
    assert found.dtype == torch.float32
    # The last prompt tokens of both, and those of the continuations but the last.
    places = torch.arange(4, 9)
    known = logits[0].double().log_softmax(2)
    for row, (prompt, follows) in enumerate(zip(PROMPTS, CONTINUATIONS, strict=True)):
        first = len(prompt) - 1 - int(places[0])
        said = [known[row, first + done, token] for done, token in enumerate(follows)]
        torch.testing.assert_close(found[row].double(), torch.stack(said).sum())


def test_labels_say_which_of_two_is_likelier():
    model = wrapped("GPT2", contrast=True)
    x = rows_of(model)
    with torch.no_grad():
        labels = model(torch.from_numpy(x)).argmax(1).numpy()
    metric = Fidelity([0.5])
    metric(model, x, labels, np.random.default_rng(0).normal(size=x.shape))
    assert set(metric.details["plus"].ravel()) <= {0.0, 1.0}
    single = wrapped("GPT2")
    with pytest.raises(ValueError, match="label"):
        Fidelity([0.5])(single, rows_of(single), Y, rows_of(single).astype(float))


def test_padding_that_stands_in_a_prompt_is_no_padding():
    """GPT-2's start, end and padding are one token."""
    model = Generation(language_model("GPT2"), pad_id=7)
    x = model.encode(PROMPTS, CONTINUATIONS)
    with torch.no_grad():
        found = model(torch.from_numpy(x))[:, 0]
    expected = [
        sum(log_probabilities(model.model.model, prompt, [True] * len(prompt), follows, "pad"))
        for prompt, follows in zip(PROMPTS, CONTINUATIONS, strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), expected)
    assert not model.removable(torch.from_numpy(x))[0, 1]


WORDS = ["the", "film", "is", "good", "bad", "un", "##watch", "##able", "slow", ":", "!"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    special = {"pad": "[PAD]", "unk": "[UNK]", "bos": "[BOS]", "eos": "[EOS]"}
    vocabulary = {token: i for i, token in enumerate([*special.values(), *WORDS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[BOS] $A", special_tokens=[("[BOS]", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, **{f"{name}_token": token for name, token in special.items()}
    )


def test_texts_words_and_parts(tokenizer: Any):
    model = Generation(language_model("Llama"), tokenizer)
    prompts = ["the film is unwatchable :", "slow film"]
    x = model.encode(prompts, ["bad !", "good"])
    assert model.tokens(x)[0] == [
        *("[BOS]", "the", "film", "is", "un", "##watch", "##able", ":", "bad", "!")
    ]
    assert (x // VOCABULARY).tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0, 2, 2],
        [1, 0, 0, 2, *[0] * 6],
    ]
    words = model.words(prompts, ["bad !", "good"])
    assert words[0].tolist() == [-1, 0, 1, 2, 3, 3, 3, 4, -1, -1]
    fields = [{"a": "the film ", "b": "is bad ", "c": ":"}, {"b": "slow ", "c": "film"}]
    parts = model.parts(fields, ["bad !", "good"])
    assert parts.tolist() == [[-1, 0, 0, 1, 1, 2, -1, -1], [-1, 0, 1, -1, *[-1] * 4]]
    kept = model.encode(fields, ["bad !", "good"], kept=["c"])
    assert (kept // VOCABULARY).tolist() == [[1, 0, 0, 0, 0, 1, 2, 2], [1, 0, 1, 2, 0, 0, 0, 0]]
    metric = Deletion(2, element="segment")
    metric(model, kept, Y, np.random.default_rng(0).normal(size=kept.shape), s_batch=parts)
    # Both parts of the first that may go, at once or one by one, and the one of the second.
    assert np.isfinite(metric.details["curve"]).all()
    whole, without = (torch.from_numpy(kept[:1].copy()) for _ in range(2))
    without[0, [1, 2, 3, 4]] = Generation.REMOVED
    with torch.no_grad():
        ends = [float(model(each).softmax(1)[0, 0]) for each in (whole, without)]
    np.testing.assert_allclose(metric.details["curve"][0][[0, -1]], ends)


@pytest.mark.parametrize("own", [False, True], ids=["by itself", "given"])
def test_an_evaluation_shows_the_tokens_of_prompts(tokenizer: Any, own: bool):
    model = Generation(language_model("Llama"), tokenizer)
    x = model.encode(["the film is unwatchable :", "slow film"], ["bad !", "good"])
    maps = {"a": np.random.default_rng(0).normal(size=x.shape)}
    given = {"tokens": model.tokens} if own else {}
    found = evaluate([Deletion(2)], maps, model, x, Y, cases=2, **given)
    assert [list(case.tokens) for case in found.cases] == model.tokens(x)


def test_maps_are_laid_out_as_rows_are(tokenizer: Any):
    model = Generation(language_model("Llama"), tokenizer)
    x = model.encode(["the film is bad", "slow film"], ["!", "good"])

    class Result:  # as captum's
        seq_attr = torch.tensor([5.0, 6.0])

    maps = model.maps([[0.0, 1, 2, 3, 4], Result()], x)
    assert maps.tolist() == [[0, 1, 2, 3, 4, 0], [0, 5, 6, 0, 0, 0]]
    with pytest.raises(ValueError, match="5 tokens of sample 0, or of 4"):
        model.maps([[1.0, 2], Result()], x)


def test_copies_and_pickles_answer_alike(tokenizer: Any):
    model = Generation(language_model("GPT2"), tokenizer)
    x = torch.from_numpy(model.encode(["the film"], ["is good"]))
    with torch.no_grad():
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(other(x), model(x))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Generation(language_model("GPT2")), "pad_id must be an id"),
        (lambda: wrapped("GPT2", output="median"), "output must be one of"),
        (lambda: Generation(language_model("GPT2"), 3), "tokenizer must be one of Hugging"),
        (lambda: wrapped("GPT2").encode("text", ["text"]), "prompts must be a sequence"),
        (
            lambda: Generation(language_model("GPT2"), pad_id=PAD, removal="mask"),
            "mask_id must be an id",
        ),
        (lambda: Generation(nn.Embedding(3, 3), pad_id=0), "parameter attention_mask"),
        (lambda: wrapped("GPT2").encode(PROMPTS, CONTINUATIONS[:1]), "each of 2 samples"),
        (lambda: wrapped("GPT2").encode(PROMPTS, CONTINUATIONS, CONTRASTS), "contrast is False"),
        (lambda: wrapped("GPT2", contrast=True).encode(PROMPTS, CONTINUATIONS), "contrast is True"),
        (lambda: wrapped("GPT2").encode([[3], []], CONTINUATIONS), "that of sample 1 none"),
        (lambda: wrapped("GPT2").encode(PROMPTS, [[3], []]), "sample 1 has none"),
        (lambda: wrapped("GPT2").encode(["text", [3]], CONTINUATIONS), "without a tokenizer"),
        (lambda: wrapped("GPT2").encode([[20], [3]], CONTINUATIONS), "below 20, hold 20"),
        (lambda: wrapped("GPT2").parts(PROMPTS, CONTINUATIONS), "mappings of named parts"),
        (
            lambda: wrapped("GPT2").encode(PROMPTS, CONTINUATIONS, kept=["context"]),
            "kept must hold names of parts of prompts, .*, holds 'context'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], Any], said: str):
    with pytest.raises((ValueError, TypeError), match=said):
        call()


def test_rows_that_do_not_fit_are_refused():
    model = wrapped("GPT2", output=2)
    x = model.encode(PROMPTS, CONTINUATIONS)
    a = np.ones(x.shape)
    with pytest.raises(ValueError, match="3 tokens or more; sample 1 is not"):
        Deletion(2)(model, x, Y, a)
    other = wrapped("GPT2")
    with pytest.raises(ValueError, match="must be left out for a Generation"):
        Deletion(2, perturb_baseline=0.5)(other, rows_of(other), Y, a)
    with pytest.raises(ValueError, match="multiply_by_inputs=True"):
        Infidelity()(other, rows_of(other), Y, a)
