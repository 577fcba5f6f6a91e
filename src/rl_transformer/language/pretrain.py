"""Train a small language model on text or on random sequences, in a resumable run folder (`rlt pretrain`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rl_transformer.errors import RLTransformerError
from rl_transformer.language.config import PretrainConfig, SyntheticPretrainConfig, TextConfig, TextPretrainConfig
from rl_transformer.language.language_model import END_OF_TEXT, LanguageModel, language_loss, total_nll
from rl_transformer.language.synthetic import RandomSequences
from rl_transformer.language.text import TextSequences, read_text, tokenized
from rl_transformer.models import DecisionTransformerConfig
from rl_transformer.models.huggingface.source import fingerprint
from rl_transformer.runtime.files import to_json, write_folder, write_text
from rl_transformer.runtime.machine import cpu_threads, find_device, versions
from rl_transformer.runtime.paths import user_path
from rl_transformer.runtime.reading import read_json
from rl_transformer.runtime.types import JsonObject
from rl_transformer.training.distributed import ProcessGroup, init_distributed
from rl_transformer.training.metrics import Metrics, make_trackers
from rl_transformer.training.run_folder import mark_finished, owned_run, prepare_run_folder, write_run_files
from rl_transformer.training.trainer import Trainer, fit
from rl_transformer.training.updates import EagerUpdates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Measure = Callable[[LanguageModel, Callable[[], None]], Mapping[str, float]]
"""A function of (model, check) that returns measurements for metrics.jsonl and report.json."""
_PRODUCT = "model/model.safetensors"
# Sequences are a function of (seed, step). No training reaches this step, so its sequences are not in the training
# data.
_FRESH_STEP = (1 << 31) - 1
_FRESH_SEQUENCES = 64


@dataclass(frozen=True)
class PretrainingTask:
    """Holds the data that a language model learns from, and the function that measures it."""

    sequences: TextSequences | RandomSequences
    tokenizer: PreTrainedTokenizerFast | None
    vocabulary: int
    measure: Measure | None
    data_fingerprint: str


def pretrain(config: TextPretrainConfig | SyntheticPretrainConfig, *, resume: bool = False) -> Path:
    """Train a language model and return its run folder, in which model/ loads in transformers and as ``model.trunk``.

    Args:
        config: Every option of the run.
        resume: Continue the run in the folder, or start it if there is none.

    Raises:
        RLTransformerError: A problem with the text, the options or the folder that the user can fix.
        Interrupted: SIGTERM or SIGINT, after a checkpoint was saved.
    """
    config.check()
    training = config.training
    device = find_device(training.device)
    folder = user_path(config.output)
    with (
        cpu_threads(training.threads),
        init_distributed(device, training.batch_size) as group,
        owned_run(folder, is_main=group.is_main),
    ):
        if prepare_run_folder(
            folder,
            config,
            resume=resume,
            data=config.dataset.uri,
            fingerprint=lambda: _make_task(config, device).data_fingerprint,
            product=_PRODUCT,
        ):
            return folder
        group.barrier()  # no process writes to the folder before every process has checked it
        task = _make_task(config, device)
        torch.manual_seed(training.seed)  # directly before the model: all processes must have the same initial weights
        model = LanguageModel(_model_config(config, task.vocabulary)).to(device)
        trainer = _make_trainer(config, folder, task, model, group)
        # config.json is written after a successful resume, so that a failed one leaves the folder as it is.
        trainer.resume()
        if group.is_main:
            write_run_files(
                folder,
                config,
                data=config.dataset.uri,
                dataset_fingerprint=task.data_fingerprint,
                step=trainer.step,
            )
        fit([trainer], EagerUpdates(trainer))
        if group.is_main:
            _save(folder, config, trainer, model, task)
        group.barrier()  # the model is complete when any process returns
    return folder


def _make_trainer(
    config: TextPretrainConfig | SyntheticPretrainConfig,
    folder: Path,
    task: PretrainingTask,
    model: LanguageModel,
    group: ProcessGroup,
) -> Trainer:
    measure = task.measure
    return Trainer(
        model=model,
        batches=task.sequences,
        config=config.training,
        options=config,
        folder=folder,
        metrics=Metrics(folder, make_trackers(folder, config.training, config.to_dict())),
        evaluations=[] if measure is None else [lambda step, check: measure(model, check)],
        evaluate_every=max(1, config.training.train_steps // 5),
        stop_if_evaluation_fails=True,  # it is no stranger's code
        data_fingerprint=task.data_fingerprint,
        loss=language_loss,
        eager_only=True,  # sequences are gathered on the CPU
        group=group,
    )


def read_report(folder: Path) -> JsonObject:
    """Return the measurements of a finished run.

    Raises:
        RLTransformerError: The run is not finished.
    """
    return read_json(folder / "report.json", fix="finish the run with rlt pretrain ... --resume")


def make_tokenizer(text: str, config: TextConfig) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer, as GPT-2 has one, with a vocabulary learned from ``text``."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = ByteLevelBPETokenizer()
    # Line by line: one huge string would be a single item that the library cannot process in parallel.
    lines = text.splitlines(keepends=True)
    tokenizer.train_from_iterator(lines, config.vocabulary, special_tokens=[END_OF_TEXT], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=config.length,
    )


def _make_task(config: TextPretrainConfig | SyntheticPretrainConfig, device: torch.device) -> PretrainingTask:
    if isinstance(config, SyntheticPretrainConfig):
        return _synthetic_task(config, device)
    return _text_task(config, device)


def _synthetic_task(config: SyntheticPretrainConfig, device: torch.device) -> PretrainingTask:
    training = config.training
    sequences = RandomSequences(config.dataset, batch_size=training.batch_size, seed=training.seed, device=device)

    # The entropy of the chain is the lowest loss that any model can reach, so the two numbers belong together.
    @torch.inference_mode()
    def measure(model: LanguageModel, check: Callable[[], None]) -> dict[str, float]:
        fresh = sequences.gather(sequences.draw_seeds(_FRESH_STEP, _FRESH_SEQUENCES))
        return {"fresh_loss": float(model.token_nlls(fresh).mean()), "entropy": sequences.entropy()}

    return PretrainingTask(sequences, None, config.dataset.states, measure, _hash(sequences.transitions))


def _text_task(config: TextPretrainConfig, device: torch.device) -> PretrainingTask:
    options = config.dataset
    training = config.training
    text = read_text(options.uri)
    tokenizer = make_tokenizer(text, options)
    tokens = tokenized(text, tokenizer.backend_tokenizer)
    # One token more than the model's positions: every token but the last predicts its successor.
    sequences = TextSequences(
        tokens, length=options.length + 1, batch_size=training.batch_size, seed=training.seed, device=device
    )
    measure = None
    if options.held_out is not None:
        held_out = read_text(options.held_out)
        held_out_tokens = tokenized(held_out, tokenizer.backend_tokenizer)
        if len(held_out_tokens) < 2:
            raise RLTransformerError("contains only one token", where=options.held_out, fix="hold out more text")
        measure = _held_out_measure(held_out_tokens, len(held_out.encode()), options.length)
    return PretrainingTask(sequences, tokenizer, len(tokenizer), measure, _hash(sequences.tokens))


def _held_out_measure(tokens: np.ndarray, num_bytes: int, length: int) -> Measure:
    """Return a function that measures bits per byte and perplexity on held-out text."""

    # Perplexity is per token and depends on the tokenizer. Bits per byte are comparable between vocabularies.
    def measure(model: LanguageModel, check: Callable[[], None]) -> dict[str, float]:
        nll = total_nll(model, tokens, length, check)
        return {
            "held_out_bits_per_byte": nll / math.log(2) / num_bytes,
            "held_out_perplexity": math.exp(nll / (len(tokens) - 1)),
        }

    return measure


def _model_config(config: TextPretrainConfig | SyntheticPretrainConfig, vocabulary: int) -> DecisionTransformerConfig:
    options = config.model
    return DecisionTransformerConfig(
        hidden_size=options.hidden_size,
        n_layer=options.n_layer,
        n_head=options.n_head,
        activation_function=options.activation_function,
        resid_pdrop=options.dropout,
        embd_pdrop=options.dropout,
        attn_pdrop=options.dropout,
        vocab_size=vocabulary,
        n_positions=config.dataset.length,
    )


def _hash(content: np.ndarray) -> str:
    return fingerprint({"tokens": torch.from_numpy(np.ascontiguousarray(content))})


def _save(folder: Path, config: PretrainConfig, trainer: Trainer, model: LanguageModel, task: PretrainingTask) -> None:
    """Write model, tokenizer and measurements, and mark the run as finished."""
    with trainer.policy_weights():

        def fill(temporary: Path) -> None:
            model.save(temporary)
            if task.tokenizer is not None:
                task.tokenizer.save_pretrained(temporary)

        write_folder(folder / "model", fill)
        measured = {} if task.measure is None else task.measure(model, lambda: None)
        report = {**measured, "train_steps": config.training.train_steps, "versions": versions("transformers")}
    write_text(folder / "report.json", to_json(report))
    mark_finished(folder, config)
