"""Claims about policy folders: they hold all that was saved, say what is wrong with them, and load for ever."""

import hashlib
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from rl_transformer import RLTransformerError, load_policy, train
from rl_transformer.conditions import ReturnToGo
from rl_transformer.conditions.cost_to_go import CostToGo
from rl_transformer.models import DecisionTransformerConfig
from rl_transformer.policy import PolicySpec, storage
from rl_transformer.policy.advice import TargetAdvice
from rl_transformer.runtime.files import to_json, write_folder
from rl_transformer.runtime.reading import read_bytes
from rl_transformer.trajectories import DataSpec, Space
from tests.policy.kinds import KINDS
from tests.toys import point_data, tiny_config, untrained_policy


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_policy_acts_as_the_one_that_was_saved(kind, tmp_path):
    policy = untrained_policy(point_data(), **KINDS[kind])
    policy.save(tmp_path / "p")
    loaded = load_policy(tmp_path / "p")
    assert loaded.spec == policy.spec
    assert loaded.content_hash == policy.content_hash
    session = policy.session()
    again = loaded.session()
    for t in range(8):
        assert session.act(np.full(2, t)).tolist() == again.act(np.full(2, t)).tolist()
        session.observe(0.1)
        again.observe(0.1)
    loaded.save(tmp_path / "q")
    for name in ("policy.json", "policy.safetensors", "manifest.json"):
        assert (tmp_path / "p" / name).read_bytes() == (tmp_path / "q" / name).read_bytes()


def test_a_tampered_policy_is_refused(tmp_path):
    untrained_policy(point_data()).save(tmp_path / "p")
    for name in ("policy.json", "policy.safetensors"):
        shutil.copytree(tmp_path / "p", tmp_path / name)
        path = tmp_path / name / name
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
        with pytest.raises(RLTransformerError, match="has changed since it was written"):
            load_policy(tmp_path / name)


def rewritten(source, folder, change_json=lambda values: values, change_tensors=lambda tensors: tensors):
    """Write a changed copy of a policy folder whose hashes are right."""

    def fill(temporary):
        values = change_json(json.loads((source / "policy.json").read_text()))
        (temporary / "policy.json").write_text(to_json(values))
        save_file(change_tensors(load_file(source / "policy.safetensors")), temporary / "policy.safetensors")

    write_folder(folder, fill)
    return folder


def with_model(**fields):
    return lambda values: values | {"model": values["model"] | fields}


ADVICE = {
    "coefficients": [], "intercept": 0.0, "residuals": [0.0] * 101, "level": 50, "luck": 0.0, "least_share": 0.01, "fixed": None,
}  # fmt: skip
CHANGED_JSON = {
    "a later format": (
        lambda v: v | {"format_version": 99},
        "format_version 99, but this rl_transformer reads 1 to 5",
    ),
    "an unknown architecture": (lambda v: v | {"arch": "mystery"}, "invalid values: arch"),
    "an unknown field of the model": (with_model(auto_map="x.py"), "unknown model fields: auto_map"),
    "an unknown field": (lambda v: v | {"mystery": 1}, "unknown fields: mystery"),
    "a missing field": (lambda v: {k: x for k, x in v.items() if k != "returns"}, "missing fields: returns"),
    "code to load": (lambda v: v | {"plugins": ["mine"]}, r"names the plugin \['mine'\], and files may not name code"),
    "an unregistered condition": (
        lambda v: v | {"conditions": [{"name": "mystery"}]},
        "there is no condition 'mystery'",
    ),
    "conditions that the model does not read": (
        lambda v: v | {"conditions": []},
        "invalid values: conditions",
    ),
    "advice for other observations": (
        lambda v: v | {"advice": ADVICE | {"coefficients": [1.0]}},
        "invalid values: advice",
    ),
    "advice without its numbers": (lambda v: v | {"advice": ADVICE | {"residuals": [1.0]}}, "advice is malformed"),
    "a text where building the model needs a number": (
        with_model(timestep_initializer_range="1.0"),
        "timestep_initializer_range is '1.0'",
    ),
    "a size in a list": (with_model(action_parts=[2, "3"]), r"action_parts is \[2, '3'\]"),
    "an unregistered action head": (with_model(action_head="mystery"), "there is no action head 'mystery'"),
}
CHANGED_TENSORS = {
    "no statistics": (lambda t: {k: v for k, v in t.items() if "observation_mean" not in k}, "lacks observation_mean"),
    "no weights of a block": (lambda t: {k: v for k, v in t.items() if "h.1" not in k}, "does not fit"),
}


@pytest.mark.parametrize("change", [*CHANGED_JSON, *CHANGED_TENSORS])
def test_a_policy_of_another_format_or_shape_is_refused(change, tmp_path):
    untrained_policy(point_data()).save(tmp_path / "p")
    if change in CHANGED_JSON:
        change_json, message = CHANGED_JSON[change]
        folder = rewritten(tmp_path / "p", tmp_path / "changed", change_json)
    else:
        change_tensors, message = CHANGED_TENSORS[change]
        folder = rewritten(tmp_path / "p", tmp_path / "changed", change_tensors=change_tensors)
    with pytest.raises(RLTransformerError, match=message) as caught:
        load_policy(folder)
    assert caught.value.fix


def test_a_place_that_holds_no_policy_is_refused_by_name(tmp_path):
    for path, message in (
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, "contains no policy.json"),
        ("hub:name", "is not the name of a policy on the Hub"),
    ):
        with pytest.raises(RLTransformerError, match=message):
            load_policy(path)


def test_a_hub_policy_is_loaded_at_its_pinned_revision_and_only_its_data_files(tmp_path, monkeypatch):
    import huggingface_hub

    policy = untrained_policy(point_data())
    policy.save(tmp_path / "snapshot")
    downloads = []

    def download(repository, *, revision, allow_patterns):
        downloads.append((repository, revision, tuple(allow_patterns)))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_policy("hub:someone/hopper@v1").content_hash == policy.content_hash
    assert downloads == [("someone/hopper", "v1", ("*.json", "*.safetensors"))]
    for uri in ("hub:someone/hopper", "hub:hopper@v1"):
        with pytest.raises(RLTransformerError, match="is not the name of a policy on the Hub"):
            load_policy(uri)
    monkeypatch.undo()
    with pytest.raises(RLTransformerError, match="cannot be downloaded"):  # the tests set the offline mode
        load_policy("hub:someone/hopper@v1")


def test_a_policy_in_the_cache_of_the_hub_is_loaded_through_its_links(tmp_path, monkeypatch):
    """The cache holds every file once, under its hash, and snapshots of links to them."""
    import huggingface_hub

    policy = untrained_policy(point_data())
    policy.save(tmp_path / "saved")
    cache = tmp_path / "models--someone--hopper"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots/v1").mkdir(parents=True)
    for path in (tmp_path / "saved").iterdir():
        blob = cache / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(blob)
        (cache / "snapshots/v1" / path.name).symlink_to(f"../../blobs/{blob.name}")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(cache / "snapshots/v1"))
    assert load_policy("hub:someone/hopper@v1").content_hash == policy.content_hash
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(RLTransformerError):
        load_policy("hub:someone/hopper@v1")


def test_a_policy_that_is_replaced_while_it_is_loaded_is_never_mixed(tmp_path):
    """Spec and weights are of one policy: here their sizes differ, so that a mixture could not even be built."""
    policies = [untrained_policy(point_data(), model={"hidden_size": size}) for size in (8, 16)]
    hashes = {policy.content_hash for policy in policies}
    policies[0].save(tmp_path / "policy")
    ends = threading.Event()

    def replace():
        turn = 0
        while not ends.is_set():
            turn = 1 - turn
            policies[turn].save(tmp_path / "policy")

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        loaded = [load_policy(tmp_path / "policy").content_hash for _ in range(60)]
    finally:
        ends.set()
        writer.join()
    assert set(loaded) <= hashes
    assert len(set(loaded)) == 2  # the folder was replaced meanwhile, or the test shows nothing


def test_a_policy_that_is_replaced_between_its_files_is_read_again(tmp_path, monkeypatch):
    before = untrained_policy(point_data(), model={"hidden_size": 8})
    after = untrained_policy(point_data(), model={"hidden_size": 16})
    before.save(tmp_path / "policy")
    read = []

    def replace_after_the_first_file(path, **options):
        content = read_bytes(path, **options)
        read.append(path.name)
        if len(read) == 2:  # the manifest and the spec are those of the first policy
            after.save(tmp_path / "policy")
        return content

    monkeypatch.setattr(storage, "read_bytes", replace_after_the_first_file)
    assert load_policy(tmp_path / "policy").content_hash == after.content_hash


def test_a_policy_whose_replacement_was_killed_is_loaded(tmp_path):
    policy = untrained_policy(point_data())
    policy.save(tmp_path / "run/policy")
    for folder in (tmp_path / "run", tmp_path / "run/policy"):
        (tmp_path / "run/policy").rename(tmp_path / "run/.policy.old-0a1b2c3d")
        assert load_policy(folder).content_hash == policy.content_hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["model"].update(hidden_size=10**6), "declares 1,000,000 width"),
        (lambda v: v["model"].update(n_layer=20_000), "declares 20,000 transformer blocks"),
        (lambda v: v["model"].update(max_ep_len=10**9), "rows of a policy's timestep table"),
        (lambda v: v["model"].update(hidden_size=60_000), "numbers or more, and policy.safetensors holds"),
        (lambda v: v["model"].update(n_layer=900), "numbers or more, and policy.safetensors holds"),
        (lambda v: v["model"].update(max_ep_len=9 * 10**6), "numbers or more, and policy.safetensors holds"),
        (lambda v: v["model"].update(n_inner=2**31), "numbers or more, and policy.safetensors holds"),
        (lambda v: v["model"].update(condition_widths=[10**9]), "numbers or more, and policy.safetensors holds"),
        (lambda v: v["model"].update(state_dim=2**31), "invalid values: model.state_dim"),
        (lambda v: v["model"].update(image_shape=[]), "invalid values: model.image_shape"),
        (lambda v: v["data"]["action_space"].update(shape=[10**30]), "invalid values: model.act_dim"),
        (lambda v: v["data"]["observation_space"].update(shape=[0]), "invalid values: model.state_dim"),
        (lambda v: v["model"].update(initializer_range=-1e-308), "initializer_range=-1e-308 is negative"),
        (lambda v: v["return_quantiles"].__setitem__(0, 10**400), "401 digits"),
    ],
)
def test_declared_sizes_are_compared_with_the_file_before_anything_is_built(change, message, tmp_path, monkeypatch):
    untrained_policy(point_data()).save(tmp_path / "policy")
    values = json.loads((tmp_path / "policy/policy.json").read_text())
    change(values)
    content = to_json(values).encode()
    (tmp_path / "policy/policy.json").write_bytes(content)
    manifest = json.loads((tmp_path / "policy/manifest.json").read_text())
    manifest["files"]["policy.json"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (tmp_path / "policy/manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr("rl_transformer.policy.loading.build_model", lambda *_: pytest.fail("a network was built"))
    with pytest.raises(RLTransformerError, match=message):
        load_policy(tmp_path / "policy")


def test_a_run_that_has_not_finished_says_so(tmp_path):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    shutil.rmtree(folder / "policy")
    with pytest.raises(RLTransformerError, match="has not finished"):
        load_policy(folder)


def test_a_run_folder_and_its_policy_folder_load_alike(tmp_path):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    assert load_policy(folder).content_hash == load_policy(folder / "policy").content_hash


@pytest.mark.parametrize("version", [1, 2])
def test_policies_of_every_released_format_load(version):
    """The folders were written by the versions that brought the format; they must load, and act the same, for ever."""
    released = Path(__file__).parents[1] / "released"
    policy = load_policy(released / f"policy-format-{version}")
    expected = json.loads((released / f"policy-format-{version}-actions.json").read_text())
    session = policy.session(6.0 if policy.spec.takes_target else None)
    for observation, action in zip(expected["observations"], expected["actions"], strict=True):
        np.testing.assert_allclose(session.act(np.array(observation, np.float32)), action, atol=1e-6)
        session.observe(0.5)


def test_the_spec_of_a_policy_survives_json():
    conditions = (ReturnToGo(scale=10.0, update="keep", reward_clip=2.0), CostToGo(scale=100.0))
    spec = PolicySpec(
        arch="decision_transformer",
        model=DecisionTransformerConfig(state_dim=2, act_dim=1, conditions=("return_to_go", "cost_to_go")),
        data=DataSpec(Space.box((2,)), Space.box((1,), -1, 1), "s", "E-v0"),
        context_length=3,
        conditions=conditions,
        returns=conditions[0],
        suggested_targets=(1.0, 2.0),
        target_ranges={"return_to_go": (0.0, 2.0), "cost_to_go": (5.0, 50.0)},
        return_bins=(0.0, 1.0, 11),
        advice=TargetAdvice(
            coefficients=(1.0, 2.0), intercept=3.0, residuals=tuple(range(101)), level=90, luck=0.5, least_share=0.01
        ),
    )
    assert PolicySpec.from_dict(json.loads(json.dumps(spec.to_dict())), where="x") == spec


def test_a_warning_names_targets_that_no_episode_had_and_the_range_of_those_it_had(tmp_path):
    data = point_data()
    policy = load_policy(train(tiny_config(tmp_path / "run"), dataset=data))
    low = data.episode_returns.min()
    high = data.episode_returns.max()
    assert policy.spec.target_ranges == {"return_to_go": pytest.approx((low, high))}
    assert policy.target_warning([low, (low + high) / 2, high]) is None
    warning = policy.target_warning([high, 99.0, -3.0])
    assert warning is not None
    assert "target return 99, -3 is outside" in warning
    assert f"[{low:g}, {high:g}]" in warning
