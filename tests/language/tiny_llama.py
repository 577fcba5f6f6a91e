"""A tiny Llama as a GGUF file, for tests."""

import gguf
import numpy as np

WIDTH = 32
HEADS = 2
INNER = 64
BLOCKS = 3
Q4_1 = gguf.GGMLQuantizationType.Q4_1


def write_tiny_llama(path):
    """Write a Llama of three blocks with matrices of four bits, and a byte-level vocabulary."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    # GPT-2's names of the 256 bytes: printable ones are themselves, the others letters from 256 on.
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    words = [chr(b) for b in own] + [chr(256 + i) for i in range(256 - len(own))]
    words = ["<|endoftext|>", *words, "Th"]
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3] + [1] * (len(words) - 1))
    writer.add_token_merges(["T h"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id, writer.add_pad_token_id):
        add(0)
    random = np.random.default_rng(0)

    def add(name, *shape):
        values = (0.2 * random.standard_normal(shape)).astype(np.float32)
        writer.add_tensor(name, gguf.quants.quantize(values, Q4_1), raw_dtype=Q4_1)

    add("token_embd.weight", len(words), WIDTH)
    for i in range(BLOCKS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{i}.{part}.weight", WIDTH, WIDTH)
        add(f"blk.{i}.ffn_gate.weight", INNER, WIDTH)
        add(f"blk.{i}.ffn_up.weight", INNER, WIDTH)
        add(f"blk.{i}.ffn_down.weight", WIDTH, INNER)
        for part in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{part}.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
