"""Train a policy together with language losses.

L = L_action + lambda_1 L_alignment + lambda_2 L_text (Reid et al. 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rl_transformer.config import LanguageConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.language.alignment import alignment_loss, alignment_schedule, word_centroids
from rl_transformer.language.lm_head import LMHead
from rl_transformer.language.text import TextSequences, read_text, tokenized
from rl_transformer.models import DecisionTransformerModel
from rl_transformer.models.huggingface.source import TrunkSource, fingerprint, load_tokenizer
from rl_transformer.training.distributed import ProcessGroup
from rl_transformer.training.losses import action_loss
from rl_transformer.windows.batch import WindowBatch


class LanguageLoss(nn.Module):
    """A `Loss` that adds alignment and language modeling to the loss of the actions.

    The language modeling head is a submodule: it is trained and checkpointed with the run, but not saved in the policy.

    Args:
        config: Weights and schedules of the losses.
        centroids: (C, E) unit vectors to align with; None without alignment.
        text: Sequences to co-train on; None without co-training.
        lm_head: The language modeling head for these sequences.
        group: The processes that train together; each computes its shard of the text.
    """

    def __init__(
        self,
        config: LanguageConfig,
        centroids: Tensor | None,
        text: TextSequences | None,
        lm_head: LMHead | None,
        group: ProcessGroup,
    ) -> None:
        super().__init__()
        self.config = config
        self.centroids = centroids
        self.text = text
        self.lm_head = lm_head
        self.group = group

    @property
    def data_fingerprint(self) -> str:
        """Hash of the text's tokens, so that a run resumes only on the same text; empty without text."""
        return "" if self.text is None else fingerprint({"tokens": torch.from_numpy(self.text.tokens)})

    def forward(
        self, model: DecisionTransformerModel, batch: WindowBatch, *, step: int, num_valid: float | None = None
    ) -> Tensor:
        """Return the loss of the actions plus the weighted losses of alignment and text; arguments as in `Loss`."""
        # Embedded once: actions and alignment use the same tokens, so both losses share the forward pass and its
        # dropout masks.
        embedded = model.embed(*batch.inputs)
        loss = action_loss(model, batch, num_valid=num_valid, parameters=model.actions_from(embedded.tokens))
        per_step = model.config.tokens_per_timestep
        if self.centroids is not None:
            # A mask over timesteps becomes one over tokens, and so does the divisor of a shard.
            is_real = batch.valid_mask.repeat_interleave(per_step, dim=1)
            # Steps count from 1 here and from 0 in the published schedule.
            weight = self.config.alignment_weight * alignment_schedule(step - 1, self.config.alignment_steps)
            num_real = None if num_valid is None else num_valid * per_step
            loss = loss + weight * alignment_loss(embedded.normalized, self.centroids, is_real, num_real)
        if self.text is not None and self.lm_head is not None:
            # All shards have the same number of tokens, so the mean over processes is that of the global batch.
            sequences = self.text.gather(self.group.shard(self.text.draw(step)))
            loss = loss + self.config.text_weight * self.lm_head.loss(model.encoder, sequences)
        return loss


def make_language_loss(
    config: LanguageConfig,
    source: TrunkSource,
    word_embeddings: Tensor | None,
    lm_head: LMHead | None,
    seed: int,
    device: torch.device,
    group: ProcessGroup,
) -> LanguageLoss:
    """Build the language loss: compute the centroids and read the text, as far as the options need them.

    Args:
        config: The options ``language.*``.
        source: The pretrained transformer, whose tokenizer splits the text.
        word_embeddings: (V, E) of the pretrained model; None if it has none.
        lm_head: The language modeling head; None without co-training.
        seed: The run's seed, which decides the order of the text.
        device: Device of the centroids and sequences.
        group: The processes that train together.

    Raises:
        RLTransformerError: The tokenizer does not belong to the weights, or the batch size of the text is not a
            multiple of the number of processes.
    """
    centroids = None
    if config.alignment_weight and word_embeddings is not None:
        centroids = word_centroids(word_embeddings.cpu(), config.alignment_centroids).to(device)
    text = None
    if config.text is not None:
        tokens = tokenized(read_text(config.text), load_tokenizer(source.name))
        # Checked here, because on a GPU an index beyond the table is a device-side assertion without a useful message.
        if word_embeddings is not None and len(tokens) and tokens.max() >= len(word_embeddings):
            raise RLTransformerError(
                f"its tokenizer has token {tokens.max()}, and its word embeddings have {len(word_embeddings)} rows",
                where=source.name,
                fix="name a folder whose tokenizer belongs to its weights",
            )
        if config.text_batch_size % group.world_size:
            raise RLTransformerError(
                f"{config.text_batch_size} sequences cannot be shared evenly by {group.world_size} processes",
                where="language.text_batch_size",
                fix=f"choose a multiple of {group.world_size}",
            )
        # One token more than text_length: every token but the last predicts its successor.
        text = TextSequences(
            tokens, length=config.text_length + 1, batch_size=config.text_batch_size, seed=seed, device=device
        )
    return LanguageLoss(config, centroids, text, lm_head, group)
