"""Claims about videos in LeRobot's recordings: frames are those of their rows, to the pixel where the codec loses nothing."""

import json
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl_transformer import RLTransformerError, load_policy
from rl_transformer.cli.main import main
from rl_transformer.trajectories.open import open_trajectories, read_trajectories

av = pytest.importorskip("av", reason="PyAV is in the extra video")
FPS = 10
SHAPE = (40, 48, 3)
FRONT, WRIST = "observation.images.front", "observation.images.wrist"


def pictures(rows, seed):
    """Blocks of random colors, of which no two are alike."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (rows, 5, 6, 3), np.uint8)
    return small.repeat(8, axis=1).repeat(8, axis=2)


def encode(path, frames, codec="libx264rgb", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options={"g": "2", **options})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24" if codec == "libx264rgb" else "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def recording(tmp_path):
    return write_recording(tmp_path / "robot")


def write_recording(folder, lengths=(5, 7, 4), codec="libx264rgb", **options):
    """Episodes 0 and 1 share a file of the front camera; the wrist's are in a file each, in another chunk."""
    frames = {name: [pictures(n, [i, len(name)]) for i, n in enumerate(lengths)] for name in (FRONT, WRIST)}
    options = options or {"qp": "0"}
    front = [np.concatenate(frames[FRONT][:2]), frames[FRONT][2]]
    for file, video in enumerate(front):
        encode(folder / f"videos/{FRONT}/chunk-000/file-{file:03d}.mp4", video, codec, **options)
    for file, video in enumerate(frames[WRIST]):
        encode(folder / f"videos/{WRIST}/chunk-001/file-{file:03d}.mp4", video, codec, **options)
    random = np.random.default_rng(0)
    rows = sum(lengths)
    step = np.concatenate([np.arange(n) for n in lengths])
    data = {
        "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(random.normal(size=2 * rows).astype("f4")), 2),
        "action": pa.FixedSizeListArray.from_arrays(pa.array(random.normal(size=rows).astype("f4")), 1),
        "next.reward": random.normal(size=rows).astype("f4"),
        "next.done": step == np.repeat(lengths, lengths) - 1,
        "timestamp": (step / FPS).astype("f4"),
        "frame_index": step,
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
    }
    (folder / "data/chunk-000").mkdir(parents=True)
    pq.write_table(pa.table(data), folder / "data/chunk-000/file-000.parquet")
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    starts = {FRONT: [0, lengths[0] / FPS, 0], WRIST: [0, 0, 0]}
    files = {FRONT: [0, 0, 1], WRIST: [0, 1, 2]}
    meta = {"episode_index": [0, 1, 2]}
    for name in (FRONT, WRIST):
        meta[f"videos/{name}/chunk_index"] = [0 if name == FRONT else 1] * 3
        meta[f"videos/{name}/file_index"] = files[name]
        meta[f"videos/{name}/from_timestamp"] = starts[name]
        meta[f"videos/{name}/to_timestamp"] = [s + n / FPS for s, n in zip(starts[name], lengths, strict=True)]
    pq.write_table(pa.table(meta), folder / "meta/episodes/chunk-000/file-000.parquet")
    feature = {"dtype": "video", "shape": list(SHAPE), "names": ["height", "width", "channels"]}
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {FRONT: feature, WRIST: feature, "observation.state": {"dtype": "float32", "shape": [2]}},
    }
    (folder / "meta/info.json").write_text(json.dumps(info))
    return folder, {name: np.concatenate(videos) for name, videos in frames.items()}


def seen(data, name):
    """The pictures of a part of the observations, (N, H, W, 3)."""
    space = data.spec.observation_space
    sizes = {part: np.prod(SHAPE) for part, inner in space.parts if inner.is_image}
    begin = sum(sizes[part] for part in list(sizes)[: list(sizes).index(name)])
    flat = np.asarray(data.observations)[:, int(begin) : int(begin + sizes[name])]
    return flat.reshape(-1, 3, *SHAPE[:2]).transpose(0, 2, 3, 1)


def test_frames_are_those_of_their_rows_to_the_pixel(recording):
    folder, frames = recording
    data = read_trajectories(f"lerobot:{folder}")
    assert data.lengths.tolist() == [5, 7, 4]
    for name in (FRONT, WRIST):
        np.testing.assert_array_equal(seen(data, name), frames[name])


def test_a_codec_that_loses_something_still_shows_the_frame_of_the_row(tmp_path):
    folder, frames = write_recording(tmp_path / "robot", codec="libx264", crf="18")
    data = read_trajectories(f"lerobot:{folder}")
    for name in (FRONT, WRIST):
        difference = np.abs(seen(data, name).astype(int) - frames[name].astype(int)).mean(axis=(1, 2, 3))
        assert difference.max() < 12
        # The nearest other frame is as far away as random colors are.
        others = np.abs(seen(data, name)[1:].astype(int) - frames[name][:-1].astype(int)).mean(axis=(1, 2, 3))
        assert others.min() > 40


def test_a_converted_store_has_the_fingerprint_of_what_is_opened_and_becomes_a_policy(recording, tmp_path, monkeypatch):
    folder, frames = recording
    monkeypatch.chdir(tmp_path)
    assert main(["convert", f"lerobot:{folder}", "--output", "store"]) == 0
    data = open_trajectories("rlt:store")
    assert data.fingerprint == read_trajectories(f"lerobot:{folder}").fingerprint
    small = ["--model.hidden_size", "8", "--model.n_layer", "1", "--model.n_head", "1"]
    short = ["--train-steps", "2", "--training.batch_size", "4", "--training.threads", "1"]
    assert main(["train", "fast", "--data", "rlt:store", "--output", "run", *small, *short]) == 0
    row = {FRONT: frames[FRONT][0], WRIST: frames[WRIST][0], "observation.state": [0.0, 0.0]}
    session = load_policy("run").session(target_return=1.0)
    assert list(session.act_row(row)) == ["action"]
    with pytest.raises(RLTransformerError, match=r"uint8 of shape \(40, 48, 3\)"):
        load_policy("run").session(target_return=1.0).act_row({**row, FRONT: frames[FRONT][0] / 255})


def test_only_the_videos_that_a_mapping_names_are_decoded(recording, tmp_path):
    folder, frames = recording
    named = ["--observe", WRIST, "--episode", "episode_index", "--order", "frame_index", "--action", "action"]
    for path in folder.glob(f"videos/{FRONT}/**/*.mp4"):
        path.unlink()
    assert main(["convert", f"lerobot:{folder}", "--output", str(tmp_path / "store"), *named]) == 0
    data = open_trajectories(f"rlt:{tmp_path / 'store'}")
    np.testing.assert_array_equal(seen(data, WRIST), frames[WRIST])


def test_without_the_extra_a_video_is_refused_by_name_with_both_ways_out(recording, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(RLTransformerError, match=f"decoding the video {FRONT}, {WRIST} needs the package av") as caught:
        read_trajectories(f"lerobot:{recording[0]}")
    assert "pip install 'rl-transformer[video]'" in caught.value.fix
    assert "--observe observation.state" in caught.value.fix


def change_info(folder, **values):
    path = folder / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_is_wrong_with_a_video_is_said_with_its_file(recording):
    folder, _ = recording
    uri = f"lerobot:{folder}"
    meta = folder / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(meta)
    column = f"videos/{FRONT}/from_timestamp"
    # A clock that is off by a third of a frame.
    shifted = table.set_column(table.schema.get_field_index(column), column, pa.array([0, 0.533, 0]))
    pq.write_table(shifted, meta)
    with pytest.raises(RLTransformerError, match=r"no frame within 0\.0001 s of 0\.5330 s") as caught:
        read_trajectories(uri)
    assert str(caught.value.where).endswith("file-000.mp4")
    pq.write_table(table.drop_columns([column]), meta)
    with pytest.raises(RLTransformerError, match=f"has no column '{column}'"):
        read_trajectories(uri)
    pq.write_table(table, meta)
    video = folder / f"videos/{FRONT}/chunk-000/file-001.mp4"
    video.write_bytes(video.read_bytes()[:200])
    with pytest.raises(RLTransformerError, match=r"cannot be decoded|terminates the reading process") as caught:
        read_trajectories(uri)
    assert str(caught.value.where) == str(video)


def test_recordings_of_other_versions_and_sizes_are_refused_by_name(recording):
    folder, _ = recording
    change_info(folder, codebase_version="v2.1")
    with pytest.raises(RLTransformerError, match=r"'v2\.1', and only version 3") as caught:
        read_trajectories(f"lerobot:{folder}")
    assert "convert_dataset_v21_to_v30" in caught.value.fix
    feature = {"dtype": "video", "shape": [3, 80, 48], "names": ["channels", "height", "width"]}
    change_info(folder, codebase_version="v3.0", features={FRONT: feature})
    with pytest.raises(RLTransformerError, match=r"has frames of 40 x 48 pixels, and meta/info\.json says 80 x 48"):
        read_trajectories(f"lerobot:{folder}")
