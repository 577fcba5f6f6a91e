"""Claims: a pushed policy comes back as the same policy; the card says what is known; private unless said otherwise."""

import json
import os
import subprocess
from dataclasses import replace

import pytest

from rl_transformer import RLTransformerError, load_policy
from rl_transformer.hub.push import CARD, policy_files
from tests.hub.stand_in import TOKEN, running_hub
from tests.toys import POINT, point_data, untrained_policy


def report(policy, mean=4.0):
    return {
        "env_id": POINT,
        "policy": policy.content_hash,
        "num_episodes": 2,
        "seed": 3,
        "training_seeds": [],
        "targets": [
            {
                "target_return": 5.0,
                "episode_returns": [mean - 1, mean + 1],
                "interval": [1.5, 6.5],
                "interval_over": "episodes",
            }
        ],
    }


@pytest.fixture
def run(tmp_path, warm_path):
    """A run folder with a policy and its evaluation, and beside it a baseline's report."""
    policy = untrained_policy(point_data())
    policy.save(tmp_path / "run/policy")
    (tmp_path / "run/report.json").write_text(json.dumps(report(policy)))
    (tmp_path / "run/checkpoints").mkdir()
    (tmp_path / "run/secret.txt").write_text("not for the Hub")
    (tmp_path / "cloning.json").write_text(json.dumps(report(policy, mean=3.25)))
    return tmp_path / "run"


def rlt(hub, cache, *words, token=TOKEN):
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache)}
    environment |= {"HF_TOKEN": token, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    command = ["rlt", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_a_pushed_policy_is_private_and_loads_as_the_same_policy(run, tmp_path):
    with running_hub() as hub:
        result = rlt(hub, tmp_path / "cache", "push", run, "me/point", "--json", tmp_path / "pushed.json")
        assert result.returncode == 0, result.stderr
        pushed = json.loads((tmp_path / "pushed.json").read_text())
        repository = hub.repositories["me/point"]
        assert repository["private"] is True
        content = repository["commits"][repository["main"]]
        # Nothing but these, whatever else lies in the folder; and the token is in none of them.
        assert sorted(content) == ["README.md", "manifest.json", "policy.json", "policy.safetensors", "report.json"]
        assert not any(TOKEN.encode() in data for data in content.values())
        assert pushed["uri"] == f"hub:me/point@{repository['main']}"
        code = f"import rl_transformer as r; print(r.load_policy({pushed['uri']!r}).content_hash)"
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "other")}
        environment |= {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        loaded = subprocess.run(["python", "-c", code], env=environment, capture_output=True, text=True)
        assert loaded.stdout.strip() == load_policy(run).content_hash, loaded.stderr


def test_a_public_repository_is_not_written_without_being_named_public(run, tmp_path):
    with running_hub() as hub:
        hub.repositories["me/open"] = {"private": False, "commits": {"0" * 40: {}}, "main": "0" * 40}
        refused = rlt(hub, tmp_path / "cache", "push", run, "me/open")
        assert refused.returncode == 2
        assert "is public" in refused.stderr
        assert hub.repositories["me/open"]["main"] == "0" * 40
        assert rlt(hub, tmp_path / "cache", "push", run, "me/open", "--public").returncode == 0
        assert hub.repositories["me/open"]["main"] != "0" * 40


def test_a_refusal_of_the_hub_is_one_message_that_says_how_to_log_in(run, tmp_path):
    with running_hub() as hub:
        result = rlt(hub, tmp_path / "cache", "push", run, "me/point", token="hf_wrong")
    assert result.returncode == 2
    assert "hf auth login" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_card_has_the_scores_and_the_baseline_beside_them(run):
    card = policy_files(run, "me/point", baselines=[str(run.parent / "cloning.json")], license_id="mit")[CARD].decode()
    assert f"| this policy | `{POINT}` | 5 | 4 | [1.5, 6.5] | 2 episodes, interval over episodes |" in card
    assert "cloning.json` |" in card
    assert "| 3.25 |" in card
    assert 'license: "mit"' in card
    assert load_policy(run).spec.dataset["fingerprint"] in card
    assert "There is no baseline to compare with" not in card


def test_what_is_not_known_is_said(run):
    (run / "report.json").unlink()
    card = policy_files(run, "me/point")[CARD].decode()
    assert "without an evaluation" in card
    assert "There is no baseline to compare with" in card
    assert "No license is given" in card


def test_an_evaluation_of_another_policy_is_not_shared_as_this_ones(run):
    other = {**report(load_policy(run)), "policy": "0" * 64}
    (run / "report.json").write_text(json.dumps(other))
    with pytest.raises(RLTransformerError, match="evaluates a different policy"):
        policy_files(run, "me/point")


def test_text_of_the_data_cannot_write_into_the_card(tmp_path):
    policy = untrained_policy(point_data())
    hostile = "x`\n---\n# Verified by the Hub\n<script>alert(1)</script>"
    policy.spec = replace(policy.spec, data=replace(policy.spec.data, source=hostile, env_id=hostile))
    policy.save(tmp_path / "policy")
    lines = policy_files(tmp_path / "policy", "me/point")[CARD].decode().splitlines()
    assert not any(line.startswith(("# Verified", "<script>")) for line in lines)
    assert lines.count("---") == 2


def test_names_that_are_no_repository_are_refused_before_anything_is_sent(run, tmp_path):
    with running_hub() as hub:
        for name in ("point", "a/b/c", "me/..", "https://huggingface.co/me/point"):
            result = rlt(hub, tmp_path / "cache", "push", run, name)
            assert result.returncode == 2, name
            assert "ORG/NAME" in result.stderr
        assert not hub.repositories
