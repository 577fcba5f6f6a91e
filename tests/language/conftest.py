import pytest

from rl_transformer.language.pretrain import pretrain
from tests.language.samples import TEXT, text_config


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def language_model(tmp_path):
    """Return the run folder of a small language model; its text is text.txt next to it."""
    (tmp_path / "text.txt").write_text(TEXT)
    return pretrain(text_config(tmp_path / "lm", tmp_path / "text.txt"))
