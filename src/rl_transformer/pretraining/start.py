"""Where a policy's trunk starts: from nothing, from a pretrained transformer, or from one of its controls (Reid et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.models import DecisionTransformerModel, PolicyModel
from rl_transformer.models.hf_source import TrunkSource, width_of
from rl_transformer.models.hf_trunk import HFTrunk, copy_weights, fields_of, first_position, position_table
from rl_transformer.pretraining.objective import LanguageObjective
from rl_transformer.pretraining.words import WordPrediction
from rl_transformer.training.ranks import Ranks

_OWN_BLOCKS = ("h.", "ln_f.")


@dataclass(frozen=True)
class Start:
    """What a run's trunk starts from; neither a source nor a module: from nothing."""

    config: RunConfig
    source: TrunkSource | None = None
    module: nn.Module | None = None

    @classmethod
    def of(cls, config: RunConfig, module: nn.Module | None) -> Start:
        """Read the configuration of the named transformer, if one is named.

        Raises:
            RLTransformerError: No such transformer, or one that has to be named and is passed.
        """
        if module is not None and config.model.arch == "behavior_cloning":
            raise RLTransformerError(
                "the MLP of behavior_cloning has no trunk", where="transformer", fix="leave it out"
            )
        if module is not None:
            options = config.model.trunk or config.language.alignment_weight or config.language.text_weight
            if options or config.model.trunk_weights != "pretrained" or config.model.positions == "timesteps":
                raise RLTransformerError(
                    "options of a named trunk beside a module",
                    where="transformer",
                    fix="save the module to a folder and name that as model.trunk",
                )
            return cls(config, None, module)
        if config.model.trunk is None:
            return cls(config)
        source = TrunkSource.of(config.model.trunk)
        rates = {site: getattr(config.model, site) for site in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
        absent = source.set_dropout(rates)
        if absent and not source.is_own:
            print(
                f"note: {source.config.model_type} has no place for {', '.join(absent)}: no dropout there", flush=True
            )
        print(
            f"trunk: {source.name}, {config.model.trunk_weights} weights, {source.config.model_type}, width {width_of(source.config)}; "
            "its own sizes and activation stand in for those of model.*",
            flush=True,
        )
        return cls(config, source)

    @property
    def model_fields(self) -> dict[str, Any]:
        """What the trunk decides in a `DecisionTransformerConfig`."""
        if self.module is not None:
            return fields_of(self.module)
        return {} if self.source is None else self.source.model_fields()

    def fill(self, model: PolicyModel, device: torch.device, ranks: Ranks) -> LanguageObjective | None:
        """Put the weights into the trunk, and return the loss if language is kept beside the policy.

        With a text to go on with, the model gets the source's word table and head as ``model.words``.
        """
        if not isinstance(model, DecisionTransformerModel):
            return None
        if self.module is not None:
            fill_trunk(model, self.module)
        if self.source is None:
            return None
        options, language, seed = self.config.model, self.config.language, self.config.training.seed
        loaded = self.source.load(options.trunk_weights, seed, head=bool(language.text_weight))
        fill_trunk(model, loaded)
        if options.positions == "timesteps":
            _start_timesteps(model, loaded, self.source.name)
        if language.text_weight:
            model.words = WordPrediction(loaded, model.encoder)
            longest = model.words.longest
            if longest is not None and language.text_length > longest:
                raise RLTransformerError(
                    f"{language.text_length} tokens are more than the {longest} positions of {self.source.name}",
                    where="language.text_length",
                    fix=f"give {longest} or fewer",
                )
        if not language.text_weight and not language.alignment_weight:
            return None
        table = loaded.get_input_embeddings()  # pyright: ignore[reportCallIssue]
        if language.alignment_weight and not isinstance(table, nn.Embedding):
            raise RLTransformerError("has no words", where=self.source.name, fix="leave language.alignment_weight 0")
        return LanguageObjective.of(language, self.source, table.weight.detach(), seed, device, ranks)


@torch.no_grad()
def fill_trunk(model: DecisionTransformerModel, loaded: nn.Module) -> None:
    """Copy a transformer's weights into the trunk of a model that was built for it."""
    encoder = model.encoder
    if isinstance(encoder, HFTrunk):
        copy_weights(encoder, loaded)
        return
    theirs, table = getattr(loaded, "base_model", loaded).state_dict(), position_table(loaded)
    absent = [
        n for n in getattr(loaded, "absent_weights", ()) if n.removeprefix("transformer.").startswith(_OWN_BLOCKS)
    ]
    if absent:
        raise RLTransformerError(
            f"the file lacks {absent[0]}", where="model.trunk", fix="name a folder with whole weights"
        )
    for name, parameter in encoder.named_parameters():
        if name == "token_positions.weight":
            assert table is not None
            parameter.copy_(table.weight)
        else:
            parameter.copy_(theirs[name])


@torch.no_grad()
def _start_timesteps(model: DecisionTransformerModel, loaded: nn.Module, name: str) -> None:
    table, timesteps = position_table(loaded), model.embed_timestep.weight
    if table is None or table.embedding_dim != timesteps.shape[1]:
        problem = "has no table of positions" if table is None else "has positions of another width than its tokens"
        raise RLTransformerError(problem, where=name, fix="set model.positions to off")
    rows = table.weight[first_position(loaded, table) :]
    timesteps.copy_(rows[torch.arange(len(timesteps)) % len(rows)])
