"""Claims about the experiment on a real language model, on a tiny one."""

import json

import pytest
import torch

from rl_transformer.cli.main import main
from rl_transformer.language.first_blocks import copy_first_blocks
from rl_transformer.language.gguf import import_gguf
from rl_transformer.models.huggingface.source import TrunkSource
from rl_transformer.reproductions.experiment import Setup
from rl_transformer.reproductions.page import as_page
from rl_transformer.reproductions.reproduction import make_result
from rl_transformer.reproductions.wikipedia_3 import CONTRASTS, Wikipedia3
from rl_transformer.runtime.files import to_json
from tests.language.tiny_llama import BLOCKS, write_tiny_llama
from tests.reproductions.test_wikipedia_2 import LEARNED


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_tiny_llama(folder / "tiny.gguf")
    import_gguf(folder / "tiny.gguf", folder / "whole")
    return folder / "whole"


def test_the_trunk_is_the_first_blocks_of_the_whole_model(model, tmp_path):
    copy_first_blocks(model, tmp_path / "first", 2)
    tokens = torch.tensor([[5, 6, 7, 8]])
    hidden = []
    for folder in (model, tmp_path / "first"):
        loaded = TrunkSource.from_name(str(folder)).load("pretrained", 0, head=False).eval()
        with torch.inference_mode():
            hidden.append(loaded(input_ids=tokens, output_hidden_states=True).hidden_states)
    assert (len(hidden[0]), len(hidden[1])) == (BLOCKS + 1, 3)
    assert torch.equal(hidden[0][1], hidden[1][1])


def test_every_arm_has_the_same_blocks_and_only_cloning_takes_no_return(model, tmp_path):
    experiment = Wikipedia3()
    setup = Setup(quick=True, seeds=1, output=tmp_path / "out/w", language_model=str(model))
    configs = {arm: experiment.run_config(arm, 1e-3, setup) for arm in CONTRASTS.titles}
    assert {config.model.trunk for config in configs.values()} == {str(experiment.trunk(setup))}
    weights = {arm: config.model.trunk_weights for arm, config in configs.items()}
    assert weights == {"random": "random", "shuffled": "shuffled", "pretrained": "pretrained", "bc-10": "random"}
    assert [arm for arm, config in configs.items() if not config.model.conditions] == ["bc-10"]
    assert configs["bc-10"].dataset.top_fraction == 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "needs a language model"),
        (["--language-model", "nowhere"], "no such file"),
        (["--device", "gpu"], "did you mean cuda"),
    ],
)
def test_what_is_missing_is_refused_before_anything_is_measured(options, message, tmp_path, capsys):
    assert main(["reproduce", "wikipedia-3", "--quick", *options, "--output", str(tmp_path / "out/w")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out/w/cells").exists()


def test_another_experiment_takes_no_language_model(tmp_path, capsys):
    assert main(["reproduce", "scaling", "--language-model", "x", "--output", str(tmp_path / "out")]) == 2
    assert "starts from no such model" in capsys.readouterr().err


def test_the_page_says_which_cells_a_gpu_measured(tmp_path):
    """And the rows of cloning are there, although no rule is about them."""
    experiment = Wikipedia3()
    setup = Setup(quick=False, seeds=2, output=tmp_path)
    rows = [{"arm": "language", "kind": "text", **LEARNED, "seconds": 60.0}]
    for arm in CONTRASTS.titles:
        for seed in range(2):
            curve = [[100 * i, 10.0 * i + seed] for i in range(1, 11)]
            cell = {"arm": arm, "seed": seed, "curve": curve, "action_error": 0.1, "learning_rate": 1e-3}
            heads = {"markov_heads_before": 3, "markov_heads_after": 2}
            rows.append(
                {
                    **cell,
                    **heads,
                    "largest": 9.0,
                    "seconds": 30.0,
                    "device": "NVIDIA H100",
                    "versions": {"torch": "2.11"},
                }
            )
    summary = experiment.summarize(rows, setup)
    # In the order of the machine that measured, which is not that of the file: --check reads the file.
    versions = {"torch": "2.13", "numpy": "2.4"}
    described = {"command": "rlt", "versions": versions, "hardware": {"machine": "x86_64", "cores": 2}}
    result = make_result(experiment, setup, rows, summary, {"recipe": {}}, described)
    page = as_page(experiment, summary, result)
    assert (
        "5 minutes, 4 of them of processes that ran side by side on NVIDIA H100 (torch 2.11), one thread per cell"
        in page
    )
    assert "%BC, best 10 % of timesteps, the same blocks, random: area under the curve" in page
    assert "pretrained blocks: Markov heads after training | 2.000" in page
    assert "The others: x86_64, 2 cores; numpy 2.4, torch 2.13." in page
    assert as_page(experiment, summary, json.loads(to_json(result))) == page


@pytest.mark.parametrize("device", ["cpu", "cuda:99"])
def test_a_device_has_no_effect_without_measurements_and_is_refused(device, capsys):
    """Whether the machine has it or not: a page that a GPU measured is checked without one."""
    assert main(["reproduce", "wikipedia-3", "--check", "--device", device]) == 2
    assert "--device: has no effect with --check" in capsys.readouterr().err
