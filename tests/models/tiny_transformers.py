"""Tiny transformers of Hugging Face, built without the network."""

import torch
import transformers

from rl_transformer.models.decision_transformer import DecisionTransformer

WIDTH = 16
T = 6
SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 40,
}
_GPT2 = {
    "n_embd": WIDTH,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": 40,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_T5 = {"d_model": WIDTH, "num_layers": 2, "num_heads": 2, "d_ff": 32, "d_kv": 8, "vocab_size": 40}
_CLIP = {**SIZES, "bos_token_id": 0, "eos_token_id": 1}
_BART = {
    "d_model": WIDTH,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "vocab_size": 40,
}
_OPT = {
    "hidden_size": WIDTH,
    "word_embed_proj_dim": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 32,
    "vocab_size": 40,
}
KINDS = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**_GPT2)),
    "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**_T5)),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)),
    "qwen3": lambda: transformers.Qwen3Model(transformers.Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8)),
    "mamba": lambda: transformers.MambaModel(
        transformers.MambaConfig(hidden_size=WIDTH, num_hidden_layers=2, vocab_size=40, state_size=4)
    ),
    "gpt_neox": lambda: transformers.GPTNeoXModel(transformers.GPTNeoXConfig(**SIZES)),
    "opt": lambda: transformers.OPTModel(transformers.OPTConfig(**_OPT)),
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**SIZES, is_decoder=True)),
    "bart": lambda: transformers.BartModel(transformers.BartConfig(**_BART)),
    "clip text tower": lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**_CLIP)),
    "clip vision tower": lambda: transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            **{k: v for k, v in SIZES.items() if k != "vocab_size"}, image_size=48, patch_size=8
        )
    ),
    "imagegpt": lambda: transformers.ImageGPTModel(
        transformers.ImageGPTConfig(n_embd=WIDTH, n_layer=2, n_head=2, vocab_size=40, n_positions=64)
    ),
}


def transformer(kind):
    """Return a transformer with large random weights: zero biases, and small weights, would hide mistakes."""
    torch.manual_seed(0)
    module = KINDS[kind]()
    for name, parameter in module.named_parameters():
        if not name.endswith(("A_log", ".D", "norm.weight", "norm_f.weight")):
            torch.nn.init.normal_(parameter, std=0.2)
    return module


def saved(kind, folder, **options):
    """Write a transformer into a folder and return it."""
    module = transformer(kind)
    module.save_pretrained(folder, **options)
    return module


def model_around(kind, **options):
    """Return a Decision Transformer around a transformer."""
    return DecisionTransformer(transformer=transformer(kind), state_dim=3, act_dim=2, max_ep_len=20, **options).eval()


def inputs(batch=2, length=T):
    """Return random states, actions, returns and timesteps for `model_around`."""
    states = torch.randn(batch, length, 3)
    actions = torch.randn(batch, length, 2)
    returns = torch.randn(batch, length, 1)
    return states, actions, returns, torch.arange(length).expand(batch, length)
