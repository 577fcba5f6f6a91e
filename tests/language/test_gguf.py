"""Claims about importing a language model from a GGUF file."""

import importlib.util
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rl_transformer import RLTransformerError, load_policy, train
from rl_transformer.cli.main import main
from rl_transformer.language.gguf import import_gguf
from rl_transformer.models.huggingface.source import TrunkSource, load_tokenizer
from tests.language.tiny_llama import BLOCKS, WIDTH, write_tiny_llama
from tests.toys import point_data, tiny_config

TEXT = "The hopper hops; the walker walks."
SPEC = importlib.util.find_spec


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A tiny model, beside a file that must not be read."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny_llama(path)
    (path.parent / "config.json").write_text('{"model_type": "nothing that exists"}')
    return path


def logits(model, tokens):
    with torch.inference_mode():
        return model.eval()(input_ids=tokens).logits


def test_an_imported_model_computes_what_transformers_computes_from_the_file(file, tmp_path):
    report = import_gguf(file, tmp_path / "model")
    assert {"architecture": "llama", "quantization": "Q4_1", "blocks": BLOCKS, "width": WIDTH}.items() <= report.items()
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / file.name).write_bytes(file.read_bytes())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "alone", gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "alone", gguf_file=file.name)
    ids = load_tokenizer(str(tmp_path / "model")).encode(TEXT, add_special_tokens=False).ids
    assert ids == tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(TEXT) - 1  # "Th" is one token
    ours = TrunkSource.from_name(str(tmp_path / "model")).load("pretrained", 0, head=True)
    tokens = torch.tensor([ids])
    assert torch.equal(logits(ours, tokens), logits(theirs, tokens))
    modes = {path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert len(modes) == 1  # that of the umask
    assert len({round(float(value), 4) for value in logits(ours, tokens)[0, -1]}) > 50


def test_the_first_blocks_are_those_of_the_whole_model_and_become_a_trunk(file, tmp_path):
    whole = import_gguf(file, tmp_path / "whole")
    first = import_gguf(file, tmp_path / "first", blocks=2)
    assert (first["blocks"], first["blocks_in_file"], whole["blocks"]) == (2, BLOCKS, BLOCKS)
    assert first["parameters"] < whole["parameters"]
    tokens = torch.tensor([[1, 2, 3, 4]])
    models = [
        TrunkSource.from_name(str(tmp_path / name)).load("pretrained", 0, head=True).eval()
        for name in ("whole", "first")
    ]
    with torch.inference_mode():
        hidden = [model(input_ids=tokens, output_hidden_states=True).hidden_states for model in models]
    assert torch.equal(hidden[0][1], hidden[1][1])
    data = point_data()
    run = train(tiny_config(tmp_path / "run", model={"trunk": str(tmp_path / "first")}), dataset=data)
    assert sum(name.endswith("q_proj.weight") for name in load_policy(run).model.state_dict()) == 2


def test_the_command_says_what_the_file_holds_and_measures_it_on_text(file, tmp_path, capsys):
    (tmp_path / "text.txt").write_text(20 * TEXT)
    measured = ["--held-out", str(tmp_path / "text.txt"), "--context", "16", "--json", str(tmp_path / "report.json")]
    assert main(["pretrain", "import", str(file), "--output", str(tmp_path / "model"), *measured]) == 0
    assert "3 of 3 blocks, width 32" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["quantization"] == "Q4_1"
    assert report["pretrained_bits_per_byte"] != report["shuffled_bits_per_byte"]
    assert main(["pretrain", "import", str(file), "--output", str(tmp_path / "model")]) == 2  # never replaced


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, [], "no such file"),
        (b"not a model at all, but a text", [], "cannot be read as a GGUF model"),
        (b"GGUF" + bytes([3, 0, 0, 0]) + b"\xff" * 16, [], "cannot be read as a GGUF model"),
        ("tiny", ["--blocks", "4"], "4 of 3 blocks"),
        ("tiny", ["--blocks", "1", "--held-out", "x"], "give one of them"),
    ],
)
def test_what_cannot_be_imported_is_refused_and_nothing_is_written(content, options, message, file, tmp_path, capsys):
    path = file if content == "tiny" else tmp_path / "other.gguf"
    if isinstance(content, bytes):
        path.write_bytes(content)
    assert main(["pretrain", "import", str(path), "--output", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_the_command_that_installs_it(file, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else SPEC(name, *rest))
    with pytest.raises(RLTransformerError, match="needs the package gguf") as error:
        import_gguf(file, tmp_path / "model")
    assert error.value.fix == "pip install 'rl-transformer[lm]'"
