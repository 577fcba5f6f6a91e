"""The loss of a policy that keeps near language: L = L_action + lambda_1 L_alignment + lambda_2 L_text (Reid et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rl_transformer.config import LanguageConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.models import DecisionTransformerModel
from rl_transformer.models.hf_source import TrunkSource, fingerprint, load_tokenizer
from rl_transformer.pretraining.alignment import alignment_loss, annealed, word_centroids
from rl_transformer.pretraining.text import TextPieces, read_text, tokenized
from rl_transformer.training.losses import action_loss
from rl_transformer.training.ranks import Ranks
from rl_transformer.windows.gather import WindowBatch


@dataclass(frozen=True)
class LanguageObjective:
    """Called as `action_loss` is, with the step, on which the alignment's weight and the text depend."""

    config: LanguageConfig
    centroids: Tensor | None
    text: TextPieces | None
    ranks: Ranks

    @property
    def identity(self) -> str:
        """A hash of the text, which a resumed run must find unchanged."""
        return "" if self.text is None else fingerprint({"tokens": torch.from_numpy(self.text.tokens)})

    @classmethod
    def of(
        cls,
        config: LanguageConfig,
        source: TrunkSource,
        words: Tensor | None,
        seed: int,
        device: torch.device,
        ranks: Ranks,
    ) -> LanguageObjective:
        """Find the centroids of the words and read the text, as far as they are wanted."""
        centroids = text = None
        if config.alignment_weight and words is not None:
            centroids = word_centroids(words.cpu(), config.alignment_centroids).to(device)
        if config.text is not None:
            tokens = tokenized(read_text(config.text), load_tokenizer(source.name))
            if words is not None and len(tokens) and tokens.max() >= len(words):
                raise RLTransformerError(
                    f"its tokenizer has token {tokens.max()}, and its word table {len(words)} rows",
                    where=source.name,
                    fix="name a folder whose tokenizer belongs to its weights",
                )
            if config.text_batch_size % ranks.world_size:
                raise RLTransformerError(
                    f"{config.text_batch_size} pieces cannot be shared evenly by {ranks.world_size} processes",
                    where="language.text_batch_size",
                    fix=f"choose a multiple of {ranks.world_size}",
                )
            text = TextPieces(tokens, config.text_length + 1, seed, device)
        return cls(config, centroids, text, ranks)

    def __call__(
        self, model: DecisionTransformerModel, batch: WindowBatch, *, step: int, num_valid: float | None = None
    ) -> Tensor:
        tokens, embedded = model.tokens_and_embedded(*batch.inputs)
        loss = action_loss(model, batch, num_valid=num_valid, parameters=model.actions_from(tokens))
        per_step = model.config.tokens_per_timestep
        if self.centroids is not None:
            real = batch.valid_mask.repeat_interleave(per_step, dim=1)
            weight = self.config.alignment_weight * annealed(step - 1, self.config.alignment_steps)
            count = None if num_valid is None else num_valid * per_step
            loss = loss + weight * alignment_loss(embedded, self.centroids, real, count)
        if self.text is not None and model.words is not None:
            index = self.ranks.share(self.text.draw(step, self.config.text_batch_size))
            loss = loss + self.config.text_weight * model.words.loss(model.encoder, self.text.gather(index).states)
        return loss
