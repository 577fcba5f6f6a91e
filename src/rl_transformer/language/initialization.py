"""Initialize a policy's trunk: randomly, from a pretrained transformer, or from a control (Reid et al. 2022).

The controls (``model.trunk_weights`` random and shuffled) have the same architecture without the learned structure.
They show how much of an effect is due to pretraining.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.language.co_training import LanguageLoss, make_language_loss
from rl_transformer.language.lm_head import LMHead
from rl_transformer.models import DecisionTransformerModel, PolicyModel
from rl_transformer.models.huggingface.position_tables import first_position, position_table
from rl_transformer.models.huggingface.source import TrunkSource, width_of
from rl_transformer.models.huggingface.trunk import HFTrunk, copy_weights, fields_of
from rl_transformer.runtime import log
from rl_transformer.runtime.types import JsonObject
from rl_transformer.training.distributed import ProcessGroup

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_OWN_BLOCKS = ("h.", "ln_f.")  # GPT-2's names of the transformer blocks and of the final layer norm


@dataclass(frozen=True)
class TrunkInitialization:
    """Initializes a run's trunk from a source or a module; without either, the initial weights are random."""

    config: RunConfig
    source: TrunkSource | None = None
    module: nn.Module | None = None

    @classmethod
    def from_config(cls, config: RunConfig, module: nn.Module | None) -> TrunkInitialization:
        """Return the initialization that the options select; reads a transformer's configuration, but no weights.

        Args:
            config: The run's options.
            module: A transformer to start from, instead of one that ``model.trunk`` names.

        Raises:
            RLTransformerError: There is no such transformer, or an option needs a named one but a module is given.
        """
        if module is not None:
            _check_module_options(config)
            return cls(config, None, module)
        if config.model.trunk is None:
            return cls(config)
        source = TrunkSource.from_name(config.model.trunk)
        # Dropout is the run's choice, not the pretrained model's: the data of the policy is what it may overfit.
        rates = {site: getattr(config.model, site) for site in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
        absent = source.set_dropout(rates)
        kind = source.config.model_type
        # A dropout option that the architecture does not have must not be ignored silently.
        if absent and not source.is_own:
            log.info(f"note: {kind} has no {', '.join(absent)}: there is no dropout there")
        log.info(
            f"trunk: {source.name}, {config.model.trunk_weights} weights, {kind}, width {width_of(source.config)}; "
            "its sizes and its activation replace those of model.*"
        )
        return cls(config, source)

    @property
    def model_fields(self) -> JsonObject:
        """Fields of a `DecisionTransformerConfig` that follow from the trunk."""
        if self.module is not None:
            return fields_of(self.module)
        return {} if self.source is None else self.source.model_fields()

    def apply(self, model: PolicyModel, device: torch.device, group: ProcessGroup) -> LanguageLoss | None:
        """Load the weights into the model's trunk, and return the language loss if the options enable one.

        Args:
            model: A policy's model that was built with `model_fields`; changed in place.
            device: Device of the language loss's data.
            group: The processes that train together.

        Raises:
            RLTransformerError: The weights are incomplete, or the transformer lacks a part that an option needs, such
                as word embeddings or a table of positions.
        """
        if not isinstance(model, DecisionTransformerModel):
            return None
        if self.module is not None:
            fill_trunk(model, self.module)
        if self.source is None:
            return None
        options = self.config.model
        language = self.config.language
        seed = self.config.training.seed
        # The seed decides the weights of the random and shuffled controls, so they differ between seeds as they should.
        loaded = self.source.load(options.trunk_weights, seed, head=bool(language.text_weight))
        fill_trunk(model, loaded)
        if options.positions == "timesteps":
            _initialize_timesteps(model, loaded, self.source.name)
        # The head takes its copies now: ``loaded`` is freed when this method returns.
        lm_head = self._make_lm_head(loaded, model) if language.text_weight else None
        if lm_head is None and not language.alignment_weight:
            return None
        embeddings = cast("PreTrainedModel", loaded).get_input_embeddings()
        if language.alignment_weight and not isinstance(embeddings, nn.Embedding):
            raise RLTransformerError(
                "has no word embeddings", where=self.source.name, fix="leave language.alignment_weight 0"
            )
        words = cast(nn.Embedding, embeddings).weight.detach()
        return make_language_loss(language, self.source, words, lm_head, seed, device, group)

    def _make_lm_head(self, loaded: nn.Module, model: DecisionTransformerModel) -> LMHead:
        """Return the language modeling head, after checking that its positions suffice for the text sequences."""
        assert self.source is not None
        lm_head = LMHead(cast("PreTrainedModel", loaded), model.encoder)
        longest = lm_head.max_length
        if longest is not None and self.config.language.text_length > longest:
            raise RLTransformerError(
                f"{self.config.language.text_length} tokens are more than the {longest} positions of "
                f"{self.source.name}",
                where="language.text_length",
                fix=f"give {longest} or fewer",
            )
        return lm_head


def _check_module_options(config: RunConfig) -> None:
    """Raise an `RLTransformerError` for options that have no effect on a transformer passed as a module."""
    # They need the files of a named transformer: its configuration, its weights or its tokenizer.
    if config.model.arch == "behavior_cloning":
        raise RLTransformerError("the MLP of behavior_cloning has no trunk", where="transformer", fix="leave it out")
    named = config.model.trunk or config.language.alignment_weight or config.language.text_weight
    if named or config.model.trunk_weights != "pretrained" or config.model.positions == "timesteps":
        raise RLTransformerError(
            "options of model.trunk cannot be combined with a module",
            where="transformer",
            fix="leave these options out; or save the module to a folder, and name that folder as model.trunk instead",
        )


@torch.no_grad()
def fill_trunk(model: DecisionTransformerModel, loaded: nn.Module) -> None:
    """Copy a transformer's weights into the trunk of a model that was built for it, in place.

    Raises:
        RLTransformerError: The transformer's file lacks weights of the blocks.
    """
    encoder = model.encoder
    if isinstance(encoder, HFTrunk):
        copy_weights(encoder, loaded)
        return
    source = getattr(loaded, "base_model", loaded).state_dict()
    table = position_table(loaded)
    # transformers fills weights that a file lacks with random numbers and only logs a warning. A trunk that is partly
    # random would look like a pretrained one that does not help.
    absent = [
        n for n in getattr(loaded, "absent_weights", ()) if n.removeprefix("transformer.").startswith(_OWN_BLOCKS)
    ]
    if absent:
        raise RLTransformerError(
            f"the file lacks {absent[0]}", where="model.trunk", fix="name a folder with all weights"
        )
    for name, parameter in encoder.named_parameters():
        if name == "token_positions.weight":
            assert table is not None
            parameter.copy_(table.weight)
        else:
            parameter.copy_(source[name])


@torch.no_grad()
def _initialize_timesteps(model: DecisionTransformerModel, loaded: nn.Module, name: str) -> None:
    """Copy the position table into the timestep table, as in Reid et al. (2022); repeat it if episodes are longer."""
    table = position_table(loaded)
    timesteps = model.embed_timestep.weight
    if table is None or table.embedding_dim != timesteps.shape[1]:
        problem = "has no table of positions" if table is None else "has positions of another width than its tokens"
        raise RLTransformerError(problem, where=name, fix="set model.positions to off")
    rows = table.weight[first_position(loaded, table) :]  # some models, such as OPT, reserve the first rows
    timesteps.copy_(rows[torch.arange(len(timesteps)) % len(rows)])
