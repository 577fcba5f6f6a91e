"""Small language models of our own (`rlt pretrain`): our blocks with GPT-2's names, so that transformers loads them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.errors import RLTransformerError
from rl_transformer.files import to_json, write_folder, write_text
from rl_transformer.machine import cpu_threads, find_device, versions
from rl_transformer.models import DecisionTransformerConfig, DecisionTransformerGPT2Model
from rl_transformer.models.hf_source import fingerprint
from rl_transformer.pretraining.config import PretrainConfig, SyntheticConfig, TextConfig
from rl_transformer.pretraining.synthetic import RandomSequences
from rl_transformer.pretraining.text import TextBatch, TextPieces, read_text, tokenized
from rl_transformer.training.loop import Trainer
from rl_transformer.training.metrics import Metrics
from rl_transformer.training.ranks import ranks_of
from rl_transformer.training.run_folder import is_finished, mark_finished, write_run_files

_PRODUCT = "model/model.safetensors"
_END_OF_TEXT = "<|endoftext|>"
_END = 0  # its number
_PIECES_AT_ONCE = 32


class LanguageModel(nn.Module):
    """GPT-2 with tied words, on our blocks.

    Args:
        config: Its sizes; ``vocab_size`` and ``n_positions`` are those of the tables.
    """

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.config, self.transformer = config, DecisionTransformerGPT2Model(config)

    def surprises(self, pieces: Tensor) -> Tensor:
        """Return the surprise (nats) of each token after the first: (B, L) -> (B, L - 1)."""
        hidden = self.transformer(pieces[:, :-1]).last_hidden_state
        logits = F.linear(hidden, self.transformer.wte.weight).float()
        return F.cross_entropy(logits.flatten(0, 1), pieces[:, 1:].flatten(), reduction="none").view(len(pieces), -1)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors as transformers' GPT2LMHeadModel has them."""
        c = self.config
        same = ("vocab_size", "n_positions", "n_layer", "n_head", "n_inner", "activation_function", "resid_pdrop", "embd_pdrop", "attn_pdrop", "layer_norm_epsilon", "initializer_range")  # fmt: skip
        about = {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "dtype": "float32",
            "n_embd": c.hidden_size,
        }
        values = {**about, "bos_token_id": _END, "eos_token_id": _END, **{name: getattr(c, name) for name in same}}
        write_text(folder / "config.json", to_json(values))
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def language_loss(
    model: LanguageModel, batch: TextBatch, *, step: int | None = None, num_valid: float | None = None
) -> Tensor:
    """Return the mean surprise of the pieces' tokens; arguments as of `action_loss`."""
    surprises = model.surprises(batch.states)
    return surprises.sum() / (surprises.numel() if num_valid is None else num_valid)


def pretrain(config: PretrainConfig, *, resume: bool = False) -> Path:
    """Train a language model and return its run folder: model/ in it loads in transformers, and is a trunk.

    Raises:
        RLTransformerError: Anything about the text, the options or the folder that the user can mend.
    """
    config.check()
    device, folder, training = find_device(config.training.device), Path(config.output), config.training
    with cpu_threads(training.threads), ranks_of(device, training.batch_size) as ranks:
        if is_finished(folder, config, resume=resume, product=_PRODUCT):
            return folder
        ranks.wait()
        pieces, tokenizer, measure = _task(config, device)
        torch.manual_seed(training.seed)
        model = LanguageModel(_sizes(config, len(tokenizer) if tokenizer else config.dataset.states)).to(device)  # pyright: ignore
        trainer = Trainer(
            model=model,
            sampler=pieces,  # pyright: ignore[reportArgumentType]
            gatherer=pieces,  # pyright: ignore[reportArgumentType]
            config=training,
            folder=folder,
            metrics=Metrics(folder, config),
            evaluate=(lambda step, check: measure(model, check)) if measure is not None else None,
            evaluate_every=max(1, training.train_steps // 5),
            dataset_fingerprint=_identity(pieces),
            loss=language_loss,
            needs_step=True,
            ranks=ranks,
        )
        trainer.resume()
        if ranks.writes:
            write_run_files(folder, config, dataset_fingerprint=_identity(pieces))
        trainer.fit()
        if ranks.writes:
            _finish(folder, config, trainer, tokenizer, measure)
        ranks.wait()
    return folder


def _task(config: PretrainConfig, device: torch.device) -> tuple[Any, Any, Callable[..., dict[str, float]] | None]:
    """Return pieces to learn from, their tokenizer, and what measures a model."""
    seed = config.training.seed
    if isinstance(config.dataset, SyntheticConfig):
        sequences = RandomSequences(config.dataset, seed, device)
        return sequences, None, lambda model, check: _on_sequences(model, sequences)
    text = read_text(config.dataset.uri)
    tokenizer = make_tokenizer(text, config.dataset)
    pieces = TextPieces(tokenized(text, tokenizer.backend_tokenizer), config.dataset.length + 1, seed, device)
    if config.dataset.held_out is None:
        return pieces, tokenizer, None
    held_out = read_text(config.dataset.held_out)
    tokens, size = tokenized(held_out, tokenizer.backend_tokenizer), len(held_out.encode())
    if len(tokens) < 2:
        raise RLTransformerError("is a single token", where=config.dataset.held_out, fix="hold out more text")
    return pieces, tokenizer, lambda model, check: _on_text(model, tokens, size, config.dataset.length, check)


def make_tokenizer(text: str, config: TextConfig) -> Any:
    """Return a byte-level BPE tokenizer (GPT-2's kind) whose vocabulary is made from ``text``."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = ByteLevelBPETokenizer()
    lines = text.splitlines(keepends=True)
    tokenizer.train_from_iterator(lines, config.vocabulary, special_tokens=[_END_OF_TEXT], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        bos_token=_END_OF_TEXT,
        eos_token=_END_OF_TEXT,
        model_max_length=config.length,
    )


def _sizes(config: PretrainConfig, vocabulary: int) -> DecisionTransformerConfig:
    m = config.model
    return DecisionTransformerConfig(
        hidden_size=m.hidden_size,
        n_layer=m.n_layer,
        n_head=m.n_head,
        activation_function=m.activation_function,
        resid_pdrop=m.dropout,
        embd_pdrop=m.dropout,
        attn_pdrop=m.dropout,
        vocab_size=vocabulary,
        n_positions=config.dataset.length,
    )


@torch.inference_mode()
def total_surprise(
    model: LanguageModel, tokens: np.ndarray, length: int, check: Callable[[], None] = lambda: None
) -> float:
    """Return the surprise (nats) of all of ``tokens`` but the first.

    The text is read in pieces that overlap by half, and each token is counted once, with half a piece of text before it
    or more (but for the first piece).
    """
    half = max(1, length // 2)
    starts = np.arange(0, max(1, len(tokens) - 1 - half), half)
    total, device = 0.0, next(model.parameters()).device
    for part in np.array_split(starts, -(-len(starts) // _PIECES_AT_ONCE)):
        check()
        ends = np.minimum(part + length + 1, len(tokens))
        whole = ends - part == length + 1
        for group in (part[whole], *(part[i : i + 1] for i in np.flatnonzero(~whole))):
            if not len(group):
                continue
            size = min(length + 1, len(tokens) - group[0])
            found = model.surprises(
                torch.from_numpy(tokens[group[:, None] + np.arange(size)].astype(np.int64)).to(device)
            )
            seen = found[:, length - half :].sum() + found[group == 0, : length - half].sum()
            total += float(seen)
    return total


def _on_text(
    model: LanguageModel, tokens: np.ndarray, size: int, length: int, check: Callable[[], None]
) -> dict[str, float]:
    surprise = total_surprise(model, tokens, length, check)
    return {
        "held_out_bits_per_byte": surprise / math.log(2) / size,
        "held_out_perplexity": math.exp(surprise / (len(tokens) - 1)),
    }


@torch.inference_mode()
def _on_sequences(model: LanguageModel, sequences: RandomSequences) -> dict[str, float]:
    fresh = sequences.gather(sequences.draw(-1 & 0x7FFFFFFF, 64))  # a step that no training reaches
    return {"fresh_loss": float(model.surprises(fresh.states).mean()), "entropy": sequences.entropy()}


def _identity(pieces: Any) -> str:
    content = pieces.tokens if isinstance(pieces, TextPieces) else pieces.transitions
    return fingerprint({"tokens": torch.from_numpy(np.ascontiguousarray(content))})


def _finish(folder: Path, config: PretrainConfig, trainer: Trainer, tokenizer: Any, measure: Any) -> None:
    with trainer.policy_weights():

        def fill(temporary: Path) -> None:
            trainer.model.save(temporary)
            if tokenizer is not None:
                tokenizer.save_pretrained(temporary)

        write_folder(folder / "model", fill)
        measured = measure(trainer.model, lambda: None) if measure is not None else {}
        report = {**measured, "train_steps": config.training.train_steps, "versions": versions("transformers")}
    write_text(folder / "report.json", to_json(report))
    mark_finished(folder, config)  # pyright: ignore[reportArgumentType]


def read_report(folder: Path) -> dict[str, Any]:
    """Return what a finished run measured."""
    return json.loads((folder / "report.json").read_text())
