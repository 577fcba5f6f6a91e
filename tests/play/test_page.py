"""Claims about the page: it works in a browser, only for this machine's own pages, and its worlds are those of Python."""

import functools
import http.client
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from rl_transformer import TrajectoryDataset
from rl_transformer.environments.key_to_door import PHASE_STEPS, ROOMS, KeyToDoorEnv
from rl_transformer.environments.t_maze import TMazeEnv
from rl_transformer.play.page_files import PAGE, page_file
from tests.toys import untrained_policy

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KEY_TO_DOOR = "rl_transformer/KeyToDoor-v0"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An untrained policy for Key-to-Door."""
    environment = KeyToDoorEnv()
    random = np.random.default_rng(0)
    episodes = []
    for seed in range(10):
        first, _ = environment.reset(seed=seed)
        actions = random.integers(0, 4, PHASE_STEPS * len(ROOMS))
        walk = steps_of(environment, first, actions)
        rewards = np.array(walk["rewards"]) + (seed == 0)  # so that returns differ
        episodes.append(
            {"observations": walk["observations"], "actions": actions, "rewards": rewards, "terminated": True}
        )
    dataset = TrajectoryDataset.from_episodes(episodes, action_space=environment.action_space)
    folder = tmp_path_factory.mktemp("policy") / "policy"
    untrained_policy(dataset).save(folder)
    return folder


@contextmanager
def served(run):
    """The address of a page that `rlt play` serves."""
    command = [sys.executable, "-m", "rl_transformer", "play", str(run), "--env-id", KEY_TO_DOOR, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        address = next(found[1] for line in process.stdout if (found := re.search(r"open http://(\S+)/ in", line)))
        yield address
    finally:
        process.terminate()
        assert process.wait(30) == 143
        process.stdout.close()


@contextmanager
def browser_page(address, **options):
    if BROWSER is None:
        assert not os.environ.get("CI"), "no Chromium: make test installs it"
        pytest.skip("no Chromium here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 820}, **options)
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto(address)
        yield page
        assert not faults
        browser.close()


def wait_for_text(page, selector, text):
    from playwright.sync_api import expect

    expect(page.locator(selector).first).to_have_text(text, timeout=120_000)


def number(page, name):
    """A number of the list below the picture."""
    return page.locator(f"dt:has-text('{name}') + dd").first.inner_text()


def send(address, path, body="{}", **headers):
    connection = http.client.HTTPConnection(address, timeout=30)
    with closing(connection):
        connection.request("POST", path, body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_the_page_plays_an_episode_and_only_for_pages_of_its_own(run):
    with served(run) as address:
        with browser_page(f"http://{address}/") as page:
            page.wait_for_selector("body[data-ready=true]")
            assert page.inner_text("h1") == KEY_TO_DOOR
            page.click("#step")
            wait_for_text(page, "#numbers dd", "1")
            assert page.locator("#frame").evaluate("image => image.naturalWidth") > 0
            assert page.locator("#attention td").count() >= 2
            page.fill("#speed", "60")
            page.click("#play")
            wait_for_text(page, "#message", re.compile("is over"))
            assert number(page, "step") == str(PHASE_STEPS * len(ROOMS))
            page.click("#reset")
            wait_for_text(page, "#numbers dd", "0")
        # What another website, or a name that leads here, could try.
        assert send(address, "/api/begin", origin="http://evil.example")[0] == 403
        assert send(address, "/api/begin", host="evil.example")[0] == 403
        assert send(address, "/api/begin", **{"content-type": "text/plain"})[0] == 422
        for body in (
            "[1]",
            "{",
            '{"seed": -1}',
            '{"target_return": "x"}',
            '{"target_return": NaN}',
            "[" * 900,
            "9" * 5000,
        ):
            status, answer = send(address, "/api/begin", body)
            assert status == 422, body
            assert "Traceback" not in answer
        assert send(address, "/api/begin", '{"seed": 1, "target_return": 1}')[0] == 200
        assert send(address, "/../secrets")[0] in (404, 405)


@pytest.fixture
def page_folder(tmp_path):
    for name in PAGE:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(page_file(name))
    (tmp_path / "empty.html").write_text('<!doctype html><link rel="icon" href="data:,">')
    return tmp_path


@contextmanager
def files_of(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


STEPS = """async ([name, options, start, actions]) => {
  const { WORLDS } = await import("/worlds.mjs");
  const world = new WORLDS[name](options);
  const observations = [world.resetTo(start)], rewards = [], ends = [];
  for (const action of actions) {
    const { observation, reward, over } = world.step(action);
    observations.push(observation); rewards.push(reward); ends.push(over);
    world.draw(document.createElement("canvas"));
  }
  return { observations, rewards, ends };
}"""


def steps_of(environment, first, actions):
    observations, rewards, ends = [first], [], []
    for action in actions:
        observation, reward, terminated, _, _ = environment.step(action)
        observations.append(observation)
        rewards.append(reward)
        ends.append(terminated)
    return {"observations": np.array(observations), "rewards": rewards, "ends": ends}


def plans(seed, state):
    """Actions of an episode: random ones, and for even seeds ones that take the key and open the door."""
    random = np.random.default_rng(seed)
    if seed % 2:
        return random.integers(0, 4, PHASE_STEPS * len(ROOMS)).tolist()
    (row, column), (key_row, key_column) = state.player, state.key
    middle = 3  # the column of the passage
    way = [3 if column < middle else 2] * abs(column - middle) + [0] * (row - 2)
    way += [3 if key_column > middle else 2] * abs(key_column - middle) + [0] * (2 - key_row)
    return (way + [0] * PHASE_STEPS)[:PHASE_STEPS] + [0] * (2 * PHASE_STEPS)


def test_the_worlds_of_the_browser_take_the_same_steps_as_those_of_python(page_folder):
    with files_of(page_folder) as address, browser_page(f"{address}/empty.html") as page:
        rooms = {"rooms": ROOMS, "phase_steps": PHASE_STEPS}
        successes = 0
        for seed in range(20):
            environment = KeyToDoorEnv()
            first, _ = environment.reset(seed=seed)
            state = environment._state
            start = {"player": state.player, "key": state.key}
            actions = plans(seed, state)
            ours = steps_of(environment, first, actions)
            theirs = page.evaluate(STEPS, ["KeyToDoor", json.loads(json.dumps(rooms)), start, actions])
            assert np.allclose(theirs["observations"], ours["observations"], atol=1e-7)
            assert (theirs["rewards"], theirs["ends"]) == (ours["rewards"], ours["ends"])
            successes += sum(ours["rewards"])
        assert successes > 0  # the door was opened in both
        for seed, turn in ((0, 1), (0, 2), (1, 2)):
            environment = TMazeEnv(6)
            first, _ = environment.reset(seed=seed)
            ours = steps_of(environment, first, [0] * 6 + [turn])
            theirs = page.evaluate(STEPS, ["TMaze", {"length": 6}, {"cue": 2 if seed % 2 else 1}, [0] * 6 + [turn]])
            assert np.allclose(theirs["observations"], ours["observations"])
            assert (theirs["rewards"], theirs["ends"]) == (ours["rewards"], ours["ends"])


@pytest.mark.slow
def test_an_exported_page_plays_without_a_server_that_computes(run, tmp_path):
    runtime = Path(sys.prefix, "node_modules/onnxruntime-web/dist")
    if not runtime.is_dir():
        pytest.skip("onnxruntime-web is not installed (make parts)")
    command = [sys.executable, "-m", "rl_transformer", "play", str(run), "--env-id", KEY_TO_DOOR]
    command += ["--static", "page", "--web-runtime", str(runtime)]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    with files_of(tmp_path / "page") as address, browser_page(f"{address}/index.html") as page:
        page.wait_for_selector("body[data-ready=true]", timeout=60_000)
        page.fill("#speed", "60")
        page.click("#play")
        wait_for_text(page, "#message", re.compile("is over"))
        assert number(page, "step") == str(PHASE_STEPS * len(ROOMS))
        requested = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
        assert all(name.startswith(address) for name in requested)
