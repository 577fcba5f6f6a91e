"""Claims about alignment, text beside trajectories, and language models of our own."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
import transformers
from sklearn.cluster import MiniBatchKMeans

from rl_transformer import RLTransformerError, load_policy, train
from rl_transformer.cli.main import main
from rl_transformer.config.run import LanguageConfig
from rl_transformer.runtime.machine import find_device
from rl_transformer.models import DecisionTransformerConfig, DecisionTransformerModel
from rl_transformer.models.huggingface.source import TrunkSource, load_tokenizer
from rl_transformer.language import alignment
from rl_transformer.language.alignment import alignment_loss, alignment_schedule, word_centroids
from rl_transformer.language.config import SyntheticConfig, SyntheticPretrainConfig, TextConfig, TextPretrainConfig
from rl_transformer.language.language_model import make_tokenizer, pretrain, read_report, total_nll
from rl_transformer.language.co_training import LanguageObjective
from rl_transformer.language.synthetic import RandomSequences
from rl_transformer.language.text import TextSequences, cached, read_text, tokenized
from rl_transformer.run import assemble
from rl_transformer.training.losses import action_loss
from rl_transformer.training.distributed import ProcessGroup
from rl_transformer.windows.gathering import WindowBatch

from tests.toys import point_data, tiny_config

TEXT = (
    "".join(
        f"the {a} {b} saw the {c} and the {a} slept .\n" for a in ("cat", "dog") for b in ("old", "red") for c in "xyz"
    )
    * 8
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def text_config(folder, text, **training):
    config = TextPretrainConfig(output=str(folder))
    config.dataset.uri, config.dataset.held_out = str(text), str(text)
    config.dataset.vocabulary, config.dataset.length = 300, 16
    config.model.hidden_size, config.model.n_layer, config.model.dropout = 16, 2, 0.1
    for name, value in {
        "train_steps": 12,
        "batch_size": 4,
        "warmup_steps": 2,
        "checkpoint_every": 4,
        "threads": 1,
        **training,
    }.items():
        setattr(config.training, name, value)
    return config


@pytest.fixture
def language_model(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return pretrain(text_config(tmp_path / "lm", tmp_path / "text.txt"))


# Alignment


def batch_of(lengths, width=3):
    torch.manual_seed(1)
    count, longest = len(lengths), max(lengths)
    states, actions, returns = (torch.randn(count, longest, n) for n in (width, 2, 1))
    valid = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return WindowBatch(states, actions.tanh(), returns, torch.arange(longest).expand(count, longest), valid)


def test_alignment_equals_a_loop_over_real_tokens_and_padding_contributes_nothing():
    torch.manual_seed(0)
    embedded, centroids = torch.randn(2, 4, 8), torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    real = torch.tensor([[True, True, True, False], [True, False, False, False]])
    found = []
    for row in range(2):
        for place in range(4):
            if real[row, place]:
                token = embedded[row, place]
                cosines = [float(token @ c / (token.norm() * c.norm())) for c in centroids]
                found.append(-max(cosines))
    assert alignment_loss(embedded, centroids, real).item() == pytest.approx(sum(found) / len(found), abs=1e-6)
    padded = embedded.clone()
    padded[~real] = 1e3
    padded.requires_grad_()
    loss = alignment_loss(padded, centroids, real)
    loss.backward()
    assert loss.item() == pytest.approx(sum(found) / len(found), abs=1e-6)
    assert not padded.grad[~real].any()
    assert padded.grad[real].abs().sum() > 0


def test_centroids_are_k_means_of_directions_kept_by_content(tmp_path, monkeypatch):
    torch.manual_seed(0)
    words = torch.randn(60, 4) * torch.rand(60, 1) * 10
    found = word_centroids(words, 5)
    directions = torch.nn.functional.normalize(words, dim=1).numpy()
    wanted = MiniBatchKMeans(5, random_state=0, n_init=1, batch_size=4096).fit(directions).cluster_centers_
    wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    assert np.allclose(found.numpy(), wanted, atol=1e-6)
    monkeypatch.setattr(alignment, "require", lambda *a, **k: None)
    monkeypatch.setattr("sklearn.cluster.MiniBatchKMeans", None)  # a second time nothing is computed
    assert torch.equal(word_centroids(words, 5), found)
    with pytest.raises(TypeError):
        word_centroids(words + 1, 5)
    with pytest.raises(RLTransformerError, match="61 centroids of 60 words"):
        word_centroids(words, 61)


def test_the_weight_falls_as_in_reids_code():
    assert [round(alignment_schedule(step, 5000), 4) for step in (0, 2500, 5000)] == [0.9933, 0.5, 0.0067]
    assert alignment_schedule(50, 100) == pytest.approx(0.5)
    assert alignment_schedule(10**9, 1) == 0.0


@pytest.mark.parametrize("time", ["before_norm", "after_norm"])
def test_the_loss_is_that_of_actions_plus_alignment_plus_text(time, language_model):
    torch.manual_seed(0)
    source = TrunkSource.from_name(str(language_model))
    config = DecisionTransformerConfig(state_dim=3, act_dim=2, max_ep_len=9, time=time, **source.model_fields())
    model = DecisionTransformerModel(config).eval()
    loaded = source.load("pretrained", 0, head=True)
    from rl_transformer.language.initialization import fill_trunk
    from rl_transformer.language.lm_head import LMHead

    fill_trunk(model, loaded)
    model.words = LMHead(loaded, model.encoder).eval()
    options = LanguageConfig(alignment_weight=0.5, alignment_centroids=7, alignment_steps=10)
    options.text, options.text_weight, options.text_batch_size, options.text_length = (
        str(language_model.parent / "text.txt"),
        0.25,
        3,
        12,
    )
    words = loaded.get_input_embeddings().weight.detach()
    objective = LanguageObjective.of(options, source, words, 4, torch.device("cpu"), ProcessGroup())
    batch, step = batch_of((5, 2)), 3
    _, embedded = model.embed(*batch.inputs)
    real = batch.valid_mask.repeat_interleave(3, dim=1)
    aligned = alignment_loss(embedded, word_centroids(words, 7), real)
    pieces = objective.text.gather(objective.text.draw(step, 3)).states
    assert pieces.shape == (3, 13)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(language_model / "model")(pieces, labels=pieces).loss
    wanted = action_loss(model, batch) + 0.5 * alignment_schedule(2, 10) * aligned + 0.25 * theirs
    assert objective(model, batch, step=step).item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("option", ["alignment", "text", "text and positions"])
def test_a_policy_kept_near_language_is_trained_resumed_and_saved_without_it(option, language_model, tmp_path):
    language = {"alignment_weight": 0.1, "alignment_centroids": 20, "alignment_steps": 12}
    if option != "alignment":
        language = {
            "text": str(tmp_path / "text.txt"),
            "text_weight": 0.5,
            "text_length": 16 if "pos" in option else 12,
        }
    model = {"trunk": str(language_model), **({"positions": "tokens"} if "positions" in option else {})}

    def run(name, steps, resume=False):
        config = tiny_config(tmp_path / name, model=model, language=language, training={"train_steps": steps})
        return train(config, dataset=point_data(), resume=resume)

    whole = run("whole", 8)
    run("half", 4)
    run("half", 8, resume=True)
    assert (whole / "metrics.jsonl").read_bytes() == (tmp_path / "half" / "metrics.jsonl").read_bytes()
    policy = load_policy(whole)
    assert not [name for name in policy.model.state_dict() if name.startswith("words")]
    without = train(tiny_config(tmp_path / "without", model=model, training={"train_steps": 8}), dataset=point_data())
    changed = load_policy(without).model.encoder.h[0].mlp.c_fc.weight
    assert not torch.equal(policy.model.encoder.h[0].mlp.c_fc.weight, changed)


def test_text_beside_moves_the_word_table_too(language_model, tmp_path):
    language = {"text": str(tmp_path / "text.txt"), "text_weight": 0.5, "text_length": 12}
    config = tiny_config(tmp_path / "run", model={"trunk": str(language_model)}, language=language)
    policy, trainer, _ = assemble(config, point_data(), find_device("cpu"), ProcessGroup())
    before = policy.model.words.table.weight.clone()
    trainer.model.train()
    trainer.update(1)
    assert not torch.equal(policy.model.words.table.weight, before)


def test_heads_that_are_more_than_a_product_are_refused(tmp_path):
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
    }
    torch.manual_seed(0)
    config = transformers.CohereConfig(**sizes, vocab_size=300, logit_scale=9.0)
    transformers.CohereForCausalLM(config).save_pretrained(tmp_path / "cohere")
    refused_beside_text(tmp_path, tmp_path / "cohere", "more than a product")


def refused_beside_text(tmp_path, trunk, message):
    (tmp_path / "text.txt").write_text(TEXT)
    beside = {"text": str(tmp_path / "text.txt"), "text_weight": 0.5}
    with pytest.raises(RLTransformerError, match=message):
        train(tiny_config(tmp_path / "run", model={"trunk": str(trunk)}, language=beside), dataset=point_data())


def test_options_of_language_without_what_they_belong_to_are_refused(tmp_path):
    for sections, told in (
        ({"language": {"alignment_weight": 0.1}}, "model.trunk is not given"),
        ({"model": {"trunk_weights": "random"}}, "model.trunk is not given"),
        ({"model": {"trunk": "x"}, "language": {"text": "x"}}, "a text needs a weight"),
        ({"model": {"trunk": "x", "attention": "sliding_window"}}, "whole windows"),
        ({"model": {"trunk": "x"}, "language": {"alignment_steps": 9}}, "alignment_weight is 0"),
    ):
        with pytest.raises(RLTransformerError, match=told):
            train(tiny_config(tmp_path / "run", **sections), dataset=point_data())


# Language models of our own


def test_a_pretrained_model_loads_in_transformers_with_the_same_loss(language_model):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(language_model / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(language_model / "model")
    assert tokenizer.decode(tokenizer("the old dog saw").input_ids) == "the old dog saw"
    tokens = tokenized(TEXT, load_tokenizer(str(language_model)))
    assert tokens.tolist() == tokenizer(TEXT).input_ids
    report = read_report(language_model)
    # Once more by transformers, naively: each token after the half piece before it, as the docstring says.
    surprise = 0.0
    with torch.inference_mode():
        for place in range(1, len(tokens)):
            start = 0 if place <= 16 else (place - 16 + 7) // 8 * 8
            seen = torch.tensor(tokens[start:place].astype(np.int64))[None]
            surprise -= theirs(seen).logits[0, -1].log_softmax(-1)[tokens[place]].item()
    assert report["held_out_perplexity"] == pytest.approx(math.exp(surprise / (len(tokens) - 1)), rel=1e-4)
    assert report["held_out_bits_per_byte"] == pytest.approx(surprise / math.log(2) / len(TEXT.encode()), rel=1e-4)


def test_every_token_but_the_first_is_counted_once(language_model):
    """With a model that finds every token equally surprising the total says how many were counted."""

    class Level(torch.nn.Linear):
        def token_nlls(self, pieces):
            return torch.ones(len(pieces), pieces.shape[1] - 1)

    for count in (2, 9, 16, 17, 18, 40, 41, 200):
        assert total_nll(Level(1, 1), np.zeros(count, np.int32), 16) == count - 1


def test_a_stopped_pretraining_continues_exactly_and_learns(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    text = tmp_path / "text.txt"
    whole = pretrain(text_config(tmp_path / "whole", text, train_steps=60, schedule="constant", learning_rate=3e-3))
    pretrain(text_config(tmp_path / "half", text, train_steps=30, schedule="constant", learning_rate=3e-3))
    extended = text_config(tmp_path / "half", text, train_steps=60, schedule="constant", learning_rate=3e-3)
    with pytest.raises(RLTransformerError, match="not empty"):
        pretrain(extended)
    half = pretrain(extended, resume=True)
    bytes_of = [(f / "model" / "model.safetensors").read_bytes() for f in (whole, half)]
    assert bytes_of[0] == bytes_of[1]
    assert pretrain(extended, resume=True) == half  # finished: nothing changes
    other = text_config(tmp_path / "half", text, train_steps=60, schedule="constant", learning_rate=1e-3)
    with pytest.raises(RLTransformerError, match="learning_rate"):
        pretrain(other, resume=True)
    assert read_report(whole)["held_out_perplexity"] < 60  # of 300 tokens


def test_the_command_trains_and_says_what_it_measured(tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(TEXT)
    sizes = [
        "--dataset.vocabulary",
        "300",
        "--dataset.length",
        "16",
        "--model.hidden_size",
        "16",
        "--training.batch_size",
        "4",
    ]
    arguments = [
        "pretrain",
        "text",
        "--data",
        str(tmp_path / "texts"),
        "--held-out",
        str(tmp_path / "texts"),
        "--train-steps",
        "3",
        *sizes,
    ]
    assert main([*arguments, "--output", str(tmp_path / "lm"), "--json", str(tmp_path / "lm.json")]) == 0
    assert "held out bits per byte" in capsys.readouterr().out
    assert json.loads((tmp_path / "lm.json").read_text())["train_steps"] == 3
    synthetic = [
        "pretrain",
        "synthetic",
        "--train-steps",
        "2",
        "--dataset.states",
        "10",
        "--dataset.length",
        "8",
        "--training.batch_size",
        "4",
    ]
    assert main([*synthetic, "--output", str(tmp_path / "syn")]) == 0
    for bad, told in (
        (["pretrain", "text", "--output", str(tmp_path / "x")], "no text is named"),
        (["pretrain", "text", "--data", str(tmp_path / "none"), "--output", str(tmp_path / "x")], "no text"),
        ([*arguments, "--output", str(tmp_path / "lm")], "not empty"),
        ([*synthetic, "--output", str(tmp_path / "x"), "--training.trunk", "frozen"], "no effect"),
        ([*synthetic, "--output", str(tmp_path / "x"), "--dataset.temperature", "0"], "not positive"),
    ):
        assert main(bad) == 2
        assert told in capsys.readouterr().err


def test_pieces_are_a_function_of_seed_and_step_and_of_any_place():
    tokens = np.arange(50)
    pieces = TextSequences(tokens, 5, 3, torch.device("cpu"))
    one, again, other = (pieces.gather(pieces.draw(step, 40)).states for step in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert (one == one[:, :1] + torch.arange(5)).all()
    starts = np.concatenate([pieces.draw(step, 40).rows for step in range(50)])
    assert set(starts) == set(range(46))
    with pytest.raises(RLTransformerError, match="fewer than a piece"):
        TextSequences(tokens, 51, 3, torch.device("cpu"))


def test_text_is_read_whole_in_order_and_kept_as_tokens(tmp_path):
    for name, content in (("b.txt", "second"), ("a.txt", "first"), ("c.md", "no")):
        (tmp_path / name).write_text(content)
    assert read_text(tmp_path) == "first\nsecond"
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(RLTransformerError, match="UTF-8"):
        read_text(tmp_path)
    tokenizer = make_tokenizer(TEXT, TextConfig(vocabulary=300))
    tokens = tokenized(TEXT, tokenizer.backend_tokenizer)
    assert tokenizer.decode(tokens) == TEXT
    assert np.array_equal(cached("tokens-x", lambda: tokens), cached("tokens-x", lambda: None))


def test_a_tokenizers_saved_wishes_and_code_do_not_matter(language_model, tmp_path, monkeypatch):
    """One that was told to truncate, and names code of its own: the text is read whole, and nothing is run."""
    folder = language_model / "model"
    wanted = tokenized(TEXT, load_tokenizer(str(language_model)))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer("the cat", truncation=True, max_length=3)
    tokenizer.save_pretrained(folder)
    assert json.loads((folder / "tokenizer.json").read_text())["truncation"]
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "M", "auto_map": {"AutoTokenizer": ["m.M", None]}})
    )
    (folder / "m.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *a: "y")
    assert np.array_equal(tokenized(TEXT, load_tokenizer(str(language_model))), wanted)
    assert not (tmp_path / "ran").exists()


def test_bad_text_and_bad_numbers_are_refused_with_their_cure(language_model, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("t")
    text = tmp_path / "text.txt"
    for change, told in (
        (lambda c: setattr(c.dataset, "uri", str(tmp_path / "empty.txt")), "white space"),
        (lambda c: setattr(c.dataset, "held_out", str(tmp_path / "short.txt")), "single token"),
        (lambda c: setattr(c.training, "learning_rate", -1.0), "not positive"),
        (lambda c: setattr(c.training, "betas", (1.0, 0.9)), "betas"),
        (lambda c: setattr(c.training, "ema_decay", 1.5), "ema_decay"),
        (lambda c: setattr(c.dataset, "length", 1), "below 2"),
    ):
        config = text_config(tmp_path / "bad", text)
        change(config)
        with pytest.raises(RLTransformerError, match=told):
            pretrain(config)
    beside = {"text": str(text), "text_weight": 0.5, "text_length": 17}
    with pytest.raises(RLTransformerError, match="17 tokens are more than the 16 positions"):
        train(
            tiny_config(tmp_path / "run", model={"trunk": str(language_model)}, language=beside), dataset=point_data()
        )
    options = {"model": {"trunk": str(language_model)}, "training": {"trunk": "frozen"}}
    with pytest.raises(RLTransformerError, match="frozen"):
        train(tiny_config(tmp_path / "run", language=beside, **options), dataset=point_data())


def test_a_resumed_run_notices_another_text(language_model, tmp_path):
    beside = {"text": str(tmp_path / "text.txt"), "text_weight": 0.5, "text_length": 12}

    def run(steps, resume=False):
        config = tiny_config(
            tmp_path / "run", model={"trunk": str(language_model)}, language=beside, training={"train_steps": steps}
        )
        return train(config, dataset=point_data(), resume=resume)

    run(4)
    (tmp_path / "text.txt").write_text(TEXT + "more of it .")
    with pytest.raises(RLTransformerError, match="has changed"):
        run(8, resume=True)


def test_a_head_that_the_file_lacks_is_not_made_up(tmp_path):
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 300,
    }
    transformers.LlamaModel(transformers.LlamaConfig(**sizes)).save_pretrained(tmp_path / "bare")
    refused_beside_text(tmp_path, tmp_path / "bare", "lacks the head")


# Random sequences (Wang et al. 2024)


def test_chains_have_the_published_transitions():
    config = SyntheticConfig(states=7, length=200, temperature=0.5)
    sequences = RandomSequences(config, 0, torch.device("cpu"))
    for state in range(7):
        scores = np.random.default_rng(666 + 1 + state).random(7) / 0.5
        assert np.allclose(sequences.transitions[state], np.exp(scores) / np.exp(scores).sum())
    drawn = sequences.gather(sequences.draw(1, 400)).states.numpy()
    assert drawn.shape == (400, 201)
    counts = np.zeros((7, 7))
    np.add.at(counts, (drawn[:, :-1].ravel(), drawn[:, 1:].ravel()), 1)
    assert np.abs(counts / counts.sum(1, keepdims=True) - sequences.transitions).max() < 0.02
    first = np.random.default_rng(666).random(7) / 0.5
    assert np.abs(np.bincount(drawn[:, 0], minlength=7) / 400 - np.exp(first) / np.exp(first).sum()).max() < 0.08
    again = sequences.gather(sequences.draw(1, 400)).states.numpy()
    assert np.array_equal(drawn, again)


def test_the_control_is_uniform_and_entropy_is_what_can_be_reached():
    sequences = RandomSequences(SyntheticConfig(uri="iid", states=8, length=100), 0, torch.device("cpu"))
    assert sequences.entropy() == pytest.approx(math.log(8))
    # Published chains of 100 states at temperature 1 are almost uniform: perplexity 96.05 of 100.
    chain = RandomSequences(SyntheticConfig(length=4), 0, torch.device("cpu"))
    assert math.exp(chain.entropy()) == pytest.approx(96.05, abs=0.1)
    certain = RandomSequences(SyntheticConfig(temperature=1e-4, states=5), 0, torch.device("cpu"))
    assert 0 <= certain.entropy() < 1e-3


def test_a_model_learns_a_strong_chain(tmp_path):
    config = SyntheticPretrainConfig(output=str(tmp_path / "run"))
    config.dataset.states, config.dataset.temperature, config.dataset.length = 6, 0.05, 32
    config.model.hidden_size, config.model.n_layer, config.model.dropout = 16, 1, 0.0
    config.training.train_steps, config.training.batch_size, config.training.learning_rate = 150, 16, 1e-2
    config.training.warmup_steps, config.training.threads = 10, 1
    report = read_report(pretrain(config))
    assert report["entropy"] < 0.7  # nats, of log 6 = 1.8
    assert report["fresh_loss"] < report["entropy"] + 0.15


# The n-gram model beside it


@pytest.fixture
def kneser_ney():
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location(
        "kneser_ney", Path(__file__).parents[2] / "benchmarks" / "kneser_ney.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("order", [1, 2, 3])
def test_kneser_ney_is_a_distribution_after_every_context(kneser_ney, order):
    words = np.random.default_rng(0).integers(0, 9, 400).tolist()
    model = kneser_ney.KneserNey(words, order, 12)  # three words were never seen
    for context in ((), (1,), (2, 3), (11, 2), (11, 11)):
        given = context[len(context) - (order - 1) :] if order > 1 else ()
        assert sum(model.probability(given, word) for word in range(12)) == pytest.approx(1)
        assert model.probability(given, 11) > 0


def test_kneser_ney_by_hand(kneser_ney):
    """A bigram model of a short text, from the formulas of Chen and Goodman (1999), section 3."""
    words = list("abracadabraabracadabrx")
    model = kneser_ney.KneserNey(words, 2, 6)
    from collections import Counter

    pairs = Counter(itertools.pairwise(words))
    kinds = Counter(second for _, second in pairs)  # how many different letters stand before
    d2, d1 = kneser_ney.discounts(pairs), kneser_ney.discounts(kinds)

    def taken(discounts, count):
        return discounts[min(count, 3) - 1] if count else 0

    def single(word):
        total = sum(kinds.values())
        rest = sum(taken(d1, c) for c in kinds.values()) / total
        return max(kinds[word] - taken(d1, kinds[word]), 0) / total + rest / 6

    def double(before, word):
        after = {b: c for (a, b), c in pairs.items() if a == before}
        total = sum(after.values())
        rest = sum(taken(d2, c) for c in after.values()) / total
        return max(after.get(word, 0) - taken(d2, after.get(word, 0)), 0) / total + rest * single(word)

    for before, word in (("a", "b"), ("b", "r"), ("a", "x"), ("r", "x")):
        assert model.probability((before,), word) == pytest.approx(double(before, word))
    wanted = -sum(math.log(double(a, b)) for a, b in itertools.pairwise(words))
    assert model.surprise(words) == pytest.approx(wanted)
