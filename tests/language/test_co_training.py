"""Claims about policies that stay close to language: what their loss is, and what is trained and saved."""

import shutil

import pytest
import torch
import transformers

from rl_transformer import RLTransformerError, load_policy, train
from rl_transformer.config import LanguageConfig
from rl_transformer.language.alignment import alignment_loss, alignment_schedule, word_centroids
from rl_transformer.language.co_training import make_language_loss
from rl_transformer.language.initialization import fill_trunk
from rl_transformer.language.lm_head import LMHead
from rl_transformer.launch.seeds import assemble_run
from rl_transformer.models import DecisionTransformerConfig, DecisionTransformerModel
from rl_transformer.models.huggingface.source import TrunkSource
from rl_transformer.training.distributed import ProcessGroup
from rl_transformer.training.losses import action_loss
from rl_transformer.training.updates import EagerUpdates
from rl_transformer.windows.batch import WindowBatch
from tests.language.samples import TEXT
from tests.toys import point_data, tiny_config
from tests.training.runs import assert_equal_runs, rename_tensors, stored_tensors


def batch_of(lengths, width=3):
    torch.manual_seed(1)
    count = len(lengths)
    longest = max(lengths)
    return WindowBatch(
        states=torch.randn(count, longest, width),
        actions=torch.randn(count, longest, 2).tanh(),
        conditions=torch.randn(count, longest, 1),
        timesteps=torch.arange(longest).expand(count, longest),
        valid_mask=torch.arange(longest) < torch.tensor(lengths)[:, None],
    )


@pytest.mark.parametrize("timestep_embedding", ["before_norm", "after_norm"])
def test_the_loss_is_that_of_actions_plus_alignment_plus_text(timestep_embedding, language_model):
    torch.manual_seed(0)
    source = TrunkSource.from_name(str(language_model))
    config = DecisionTransformerConfig(
        state_dim=3, act_dim=2, max_ep_len=9, timestep_embedding=timestep_embedding, **source.model_fields()
    )
    model = DecisionTransformerModel(config).eval()
    loaded = source.load("pretrained", 0, head=True)
    fill_trunk(model, loaded)
    options = LanguageConfig(alignment_weight=0.5, alignment_centroids=7, alignment_steps=10)
    options.text = str(language_model.parent / "text.txt")
    options.text_weight = 0.25
    options.text_batch_size = 3
    options.text_length = 12
    words = loaded.get_input_embeddings().weight.detach()
    lm_head = LMHead(loaded, model.encoder).eval()
    loss = make_language_loss(options, source, words, lm_head, 4, torch.device("cpu"), ProcessGroup())
    batch = batch_of((5, 2))
    step = 3
    normalized = model.embed(*batch.inputs).normalized
    real = batch.valid_mask.repeat_interleave(3, dim=1)  # three tokens per timestep
    aligned = alignment_loss(normalized, word_centroids(words, 7), real)
    sequences = loss.text.gather(loss.text.draw(step))
    assert sequences.shape == (3, 13)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(language_model / "model")
    text_loss = theirs(sequences, labels=sequences).loss
    # Two updates were made before update 3.
    expected = action_loss(model, batch) + 0.5 * alignment_schedule(2, 10) * aligned + 0.25 * text_loss
    assert loss(model, batch, step=step).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("option", ["alignment", "text", "text and positions"])
def test_a_policy_close_to_language_is_trained_resumed_and_saved_without_it(option, language_model, tmp_path):
    language = {"alignment_weight": 0.1, "alignment_centroids": 20, "alignment_steps": 12}
    if option != "alignment":
        length = 16 if "positions" in option else 12
        language = {"text": str(tmp_path / "text.txt"), "text_weight": 0.5, "text_length": length}
    model = {"trunk": str(language_model), **({"positions": "tokens"} if "positions" in option else {})}

    def run(name, steps, resume=False):
        config = tiny_config(tmp_path / name, model=model, language=language, training={"train_steps": steps})
        return train(config, dataset=point_data(), resume=resume)

    whole = run("whole", 8)
    run("half", 4)
    run("half", 8, resume=True)
    assert (whole / "metrics.jsonl").read_bytes() == (tmp_path / "half" / "metrics.jsonl").read_bytes()
    policy = load_policy(whole)
    without = train(tiny_config(tmp_path / "without", model=model, training={"train_steps": 8}), dataset=point_data())
    assert stored_tensors(whole).keys() == stored_tensors(without).keys()
    changed = load_policy(without).model.encoder.h[0].mlp.c_fc.weight
    assert not torch.equal(policy.model.encoder.h[0].mlp.c_fc.weight, changed)


def test_a_checkpoint_of_run_format_1_goes_on(language_model, tmp_path):
    """There the language modeling head was a part of the model, with a word table and positions."""
    language = {"text": str(tmp_path / "text.txt"), "text_weight": 0.5, "text_length": 12}
    options = {"model": {"trunk": str(language_model)}, "language": language, "training": {"ema_decay": 0.5}}
    whole = train(tiny_config(tmp_path / "whole", **options), dataset=point_data())
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut, ignore=shutil.ignore_patterns("policy", "finished.json", "step-12"))

    def old_name(name):
        present = name.replace("loss.lm_head.", "model.lm_head.")
        return present.replace("lm_head.embeddings.", "words.table.").replace("lm_head.positions.", "words.positions.")

    # Two tables, each with two moments and an average.
    assert rename_tensors(cut / "checkpoints" / "step-8", old_name) == 8
    train(tiny_config(cut, **options), resume=True, dataset=point_data())
    assert_equal_runs(whole, cut)


def test_co_training_moves_the_word_embeddings_too(language_model, tmp_path):
    language = {"text": str(tmp_path / "text.txt"), "text_weight": 0.5, "text_length": 12}
    config = tiny_config(tmp_path / "run", model={"trunk": str(language_model)}, language=language)
    trainer = assemble_run(config, point_data()).trainer
    embeddings = trainer.objective.loss.lm_head.embeddings.weight
    before = embeddings.clone()
    trainer.model.train()
    EagerUpdates(trainer).run(1, 1)
    assert not torch.equal(embeddings, before)


def refused_with_text(tmp_path, trunk, message):
    (tmp_path / "text.txt").write_text(TEXT)
    language = {"text": str(tmp_path / "text.txt"), "text_weight": 0.5}
    with pytest.raises(RLTransformerError, match=message):
        train(tiny_config(tmp_path / "run", model={"trunk": str(trunk)}, language=language), dataset=point_data())


def test_output_layers_that_are_more_than_a_product_are_refused(tmp_path):
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
    refused_with_text(tmp_path, tmp_path / "cohere", "not just a product")


def test_an_output_layer_that_the_file_lacks_is_not_made_up(tmp_path):
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 300,
    }
    transformers.LlamaModel(transformers.LlamaConfig(**sizes)).save_pretrained(tmp_path / "bare")
    refused_with_text(tmp_path, tmp_path / "bare", "lacks the output layer")


def test_options_of_language_without_what_they_belong_to_are_refused(tmp_path):
    for sections, message in (
        ({"language": {"alignment_weight": 0.1}}, "model.trunk is not set"),
        ({"model": {"trunk_weights": "random"}}, "model.trunk is not set"),
        ({"model": {"trunk": "x"}, "language": {"text": "x"}}, "needs both a text and a weight"),
        ({"model": {"trunk": "x", "attention": "sliding_window"}}, "attends to the full window"),
        ({"model": {"trunk": "x"}, "language": {"alignment_steps": 9}}, "alignment_weight is 0"),
    ):
        with pytest.raises(RLTransformerError, match=message):
            train(tiny_config(tmp_path / "run", **sections), dataset=point_data())


def test_text_that_does_not_fit_the_trunk_is_refused(language_model, tmp_path):
    language = {"text": str(tmp_path / "text.txt"), "text_weight": 0.5, "text_length": 17}
    model = {"trunk": str(language_model)}
    with pytest.raises(RLTransformerError, match="17 tokens are more than the 16 positions"):
        train(tiny_config(tmp_path / "run", model=model, language=language), dataset=point_data())
    options = {"model": model, "training": {"trunk": "frozen"}}
    with pytest.raises(RLTransformerError, match="frozen"):
        train(tiny_config(tmp_path / "run", language=language, **options), dataset=point_data())


def test_a_resumed_run_notices_another_text(language_model, tmp_path):
    language = {"text": str(tmp_path / "text.txt"), "text_weight": 0.5, "text_length": 12}

    def run(steps, resume=False):
        config = tiny_config(
            tmp_path / "run", model={"trunk": str(language_model)}, language=language, training={"train_steps": steps}
        )
        return train(config, dataset=point_data(), resume=resume)

    run(4)
    (tmp_path / "text.txt").write_text(TEXT + "more of it .")
    with pytest.raises(RLTransformerError, match="has changed"):
        run(8, resume=True)
