"""Load a pretrained trunk from a folder or the Hugging Face Hub: safetensors only, and no code but transformers' own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.models.config import ACTIVATIONS
from rl_transformer.runtime.paths import user_path
from rl_transformer.runtime.types import JsonObject

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PretrainedConfig

# Architectures have different names for the dropout rates of the same three sites.
_DROPOUT = {
    "resid_pdrop": ("resid_pdrop", "resid_dropout", "dropout_rate", "dropout", "hidden_dropout", "hidden_dropout_prob"),
    "embd_pdrop": ("embd_pdrop", "embed_dropout"),
    "attn_pdrop": ("attn_pdrop", "attention_dropout", "attention_probs_dropout_prob"),
}
# A downloaded file must not choose which code runs: these name Python files, or kernels that are fetched from the Hub.
_UNTRUSTED = ("auto_map", "attn_implementation", "experts_implementation", "use_kernels")
OWN_BLOCKS = "gpt2"
"""The architecture whose weights fit our own blocks, which compute the same numbers faster, and without transformers."""
_SAME_IN_GPT2 = (
    "activation_function", "layer_norm_epsilon", "initializer_range", "scale_attn_weights", "n_positions",
    "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "n_layer", "n_head", "n_inner",
)  # fmt: skip


@dataclass(frozen=True)
class TrunkSource:
    """A transformer that is given by its name; only its configuration has been read so far."""

    name: str
    """Hub id, ID@REVISION, or folder."""
    config: PretrainedConfig
    """transformers' configuration."""

    @classmethod
    def from_name(cls, name: str) -> TrunkSource:
        """Read the configuration of a folder or a Hub id.

        Raises:
            RLTransformerError: There is nothing to read, or transformers itself lacks the architecture.
        """
        require("transformers", extra="lm", purpose="model.trunk")
        from transformers import CONFIG_MAPPING, PreTrainedConfig

        with _translate_load_errors(name):
            values, _ = PreTrainedConfig.get_config_dict(_local_or_hub_name(name), **_revision(name))
            if "model_type" not in values and ("training" in values or (user_path(name) / "policy.json").is_file()):
                raise RLTransformerError(
                    "is a policy of rlt train, and a trunk is a language model",
                    where=name,
                    fix="to train it further, repeat its command with --resume and a larger --train-steps; to start another run "
                    "from its weights, set model.init_from; for a trunk, name a transformer, or a run of rlt pretrain",
                )
            kind = str(values.get("model_type"))
            if kind not in CONFIG_MAPPING:
                problem = "requires custom code, which is never run" if "auto_map" in values else f"is of type {kind!r}"
                raise RLTransformerError(
                    f"{problem}; transformers has no such architecture", where=name, fix="choose another transformer"
                )
            # transformers could read these, but not as plain float32 weights that a policy can store.
            unread = "quantized weights" if "quantization_config" in values else None
            if (user_path(name) / "adapter_config.json").is_file():
                unread = "an adapter's weights"
            if unread:
                raise RLTransformerError(
                    f"holds {unread}, which are not read", where=name, fix="merge and save the complete model"
                )
            config = CONFIG_MAPPING[kind].from_dict(strip_untrusted_keys(values))
        make_causal(config)
        return cls(name, config)

    @property
    def is_own(self) -> bool:
        """Return True if its weights fit our own blocks."""
        return self.config.model_type == OWN_BLOCKS and self.config.activation_function in ACTIVATIONS

    def model_fields(self) -> JsonObject:
        """Return the fields of a `DecisionTransformerConfig` that the trunk determines."""
        if self.is_own:
            fields = {name: getattr(self.config, name) for name in _SAME_IN_GPT2}
            return {**fields, "hidden_size": self.config.n_embd}
        return hf_model_fields(self.config)

    def set_dropout(self, rates: dict[str, float]) -> list[str]:
        """Set the architecture's dropout rates; return the sites with a positive rate that the architecture lacks."""
        absent = []
        for site, rate in rates.items():
            names = [name for name in _DROPOUT[site] if hasattr(self.config, name)]
            for name in names:
                setattr(self.config, name, rate)
            if rate and not names:
                absent.append(site)
        return absent

    def load(self, weights: str, seed: int, *, head: bool) -> nn.Module:
        """Return the transformer with pretrained, random or shuffled weights, in float32.

        Args:
            weights: pretrained; random: as the architecture initializes itself; shuffled: the pretrained
                values of each matrix in random order, a control that has the same distribution of values.
            seed: Seed of the random weights and of the shuffling.
            head: Load the language modeling head too.
        """
        kind = model_class(self.config, head=head, where=self.name)
        # transformers draws from the global generator, whose state must not depend on whether a trunk was loaded.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if weights == "random":
                return kind(self.config).float()
            with _translate_load_errors(self.name):
                model, report = kind.from_pretrained(
                    _local_or_hub_name(self.name),
                    config=self.config,
                    use_safetensors=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                    **_revision(self.name),
                )
            # transformers gives random values to weights that the file lacks. Whoever copies such a weight refuses it;
            # that it is absent does not matter where only a part of the model is used.
            model.absent_weights = set(report["missing_keys"])
            if weights == "shuffled":
                shuffle_matrices(model)
        return model


def model_class(config: PretrainedConfig, *, head: bool, where: object) -> Any:
    """Return transformers' class for a configuration, with or without the language modeling head."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    mapping = MODEL_FOR_CAUSAL_LM_MAPPING if head else MODEL_MAPPING
    if type(config) not in mapping:
        problem = "is not a causal language model" if head else "has no bare model in transformers"
        raise RLTransformerError(
            f"{config.model_type} {problem}", where=where, fix="choose a causal language model such as gpt2"
        )
    # Some configurations belong to several classes, of which the first is the usual one.
    kind = mapping[type(config)]
    return kind[0] if isinstance(kind, tuple) else kind


@torch.no_grad()
def shuffle_matrices(model: nn.Module) -> None:
    """Shuffle the values of every matrix in place; vectors stay as they are."""
    for parameter in dict.fromkeys(model.parameters()):
        if parameter.dim() >= 2:
            order = torch.randperm(parameter.numel())
            parameter.copy_(parameter.flatten()[order].view_as(parameter))


def make_causal(config: PretrainedConfig) -> None:
    """Configure an encoder-only architecture of BERT's family as a causal decoder."""
    if not config.is_encoder_decoder and "is_decoder" in config.to_dict():
        config.is_decoder = True


def hf_model_fields(config: PretrainedConfig) -> JsonObject:
    """Return the fields of a `DecisionTransformerConfig` that a transformer other than our own blocks determines."""
    # Its heads and layers are counted in its own configuration; n_head=1 divides any width.
    return {"trunk": plain_config(config), "hidden_size": width_of(config), "n_head": 1}


def strip_untrusted_keys(values: JsonObject) -> JsonObject:
    """Return a configuration from an untrusted file without the keys that choose kernels or code."""
    return {name: value for name, value in values.items() if not name.startswith("_") and name not in _UNTRUSTED}


def plain_config(config: PretrainedConfig) -> JsonObject:
    """Return transformers' configuration as JSON-ready values from which the trunk can be built again."""
    values = strip_untrusted_keys(config.to_dict())
    values.pop("transformers_version", None)
    return _replace_values(values, {float("inf"): "+inf", float("-inf"): "-inf"})  # JSON has no infinities


def from_plain(values: JsonObject) -> PretrainedConfig:
    """Rebuild transformers' configuration from the values of `plain_config`, which may come from a hostile file."""
    from transformers import CONFIG_MAPPING

    kind = str(values.get("model_type"))
    fix = "restore the policy from a copy, or use a newer transformers"
    # Models of timm are built by another library, by names that are in the file.
    if kind not in CONFIG_MAPPING or "timm" in kind:
        raise RLTransformerError(f"the installed transformers has no model type {kind!r}", where="model.trunk", fix=fix)
    return CONFIG_MAPPING[kind].from_dict(
        strip_untrusted_keys(_replace_values(values, {"+inf": float("inf"), "-inf": float("-inf")}))
    )


def _replace_values(value: Any, pairs: dict[Any, Any]) -> Any:
    if isinstance(value, dict):
        return {name: _replace_values(inner, pairs) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_values(inner, pairs) for inner in value]
    return pairs.get(value, value) if isinstance(value, str | float) else value


def width_of(config: PretrainedConfig) -> int:
    """Return the width of the tokens that a transformer takes."""
    # In multimodal models the text part has a configuration of its own. In OPT a projection may follow the tokens, which
    # are then not as wide as the blocks.
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    return int(getattr(text, "word_embed_proj_dim", None) or text.hidden_size)


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of the names, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _local_or_hub_name(name: str) -> str:
    """Return the folder (the model folder, if it is a run of `rlt pretrain`), or the Hub id without its revision."""
    folder = user_path(name)
    if (folder / "model" / "config.json").is_file():
        return str(folder / "model")
    return str(folder) if folder.is_dir() else name.partition("@")[0]


def _revision(name: str) -> dict[str, str]:
    revision = "" if user_path(name).is_dir() else name.partition("@")[2]
    return {"revision": revision} if revision else {}


def load_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer of a folder or Hub id, read by the tokenizers library from tokenizer.json, which holds no code."""
    from tokenizers import Tokenizer
    from transformers.utils.hub import cached_file

    with _translate_load_errors(name):
        tokenizer = Tokenizer.from_file(str(cached_file(_local_or_hub_name(name), "tokenizer.json", **_revision(name))))
    # A tokenizer is saved with the settings of whoever used it last.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@contextmanager
def _translate_load_errors(name: str) -> Iterator[None]:
    """Turn any error that transformers raises while loading into one message with a fix."""
    try:
        yield
    except RLTransformerError:
        raise
    except Exception as error:  # the files may hold anything
        first = " ".join(str(error).split())[:300]
        files = "config.json, tokenizer.json and the weights as *.safetensors (other formats are not read)"
        raise RLTransformerError(
            f"cannot be loaded: {first}",
            where=name,
            fix=f"name a folder with {files}; to make one from the Hub, on a machine with network: "
            f"hf download {name.partition('@')[0]} --local-dir FOLDER",
        ) from None
