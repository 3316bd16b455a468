"""Data sets of a hub on this machine, by the real client."""

import pytest
from conftest import jsonl
from hub_server import COMMIT, hub

from talr_cli.data.hub import read_hub
from talr_cli.errors import UserError


@pytest.fixture
def qa(tmp_path, monkeypatch):
    """A hub with a data set of two rows, and empty caches."""
    folder = tmp_path / "hub/datasets/lab/qa"
    folder.mkdir(parents=True)
    rows = [{"question": f"{n}?", "answer": str(n)} for n in range(2)]
    (folder / "train.jsonl").write_text(jsonl(rows))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "files"))
    with hub(tmp_path / "hub") as served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", served.url)
        template = "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE"
        monkeypatch.setattr(template, served.url + "/{repo_id}/resolve/{revision}/{filename}")
        offline(monkeypatch, False)
        yield served


def offline(monkeypatch, switched):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", switched)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", switched)


def questions(revision=None):
    rows = read_hub("lab/qa", None, "train", "give files", revision)
    return [row.values["question"] for row in rows]


def test_without_a_network_rows_are_of_the_revision_that_was_asked_for(qa, monkeypatch):
    """The library takes what it has cached last, whatever its revision is."""
    assert questions("v1") == questions(COMMIT) == questions() == ["0?", "1?"]
    offline(monkeypatch, True)
    assert questions("v1") == questions(COMMIT) == questions() == ["0?", "1?"]
    with pytest.raises(UserError, match=r"lab/qa cannot be loaded .*: give files"):
        questions("v2")
    with pytest.raises(UserError, match=r"is not dataset\.revision=f{40}: connect to the hub, or"):
        questions("f" * 40)


@pytest.mark.parametrize(
    ("status", "said"),
    [(429, "wait some minutes .* or log in by `hf auth login`"), (503, "the hub has a fault")],
)
def test_a_busy_or_failing_hub_is_told_from_a_missing_name(qa, status, said, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    qa.refused["lab/qa"] = [status]
    with pytest.raises(UserError, match=rf"lab/qa cannot be loaded .*{said}.*; or give files"):
        questions()


def test_a_gated_data_set_is_refused_with_where_to_ask(qa):
    qa.gated.add("lab/qa")
    page = rf"ask for access at {qa.url}/datasets/lab/qa, then `hf auth login`; or give files"
    with pytest.raises(UserError, match=page):
        questions()
