"""What `talr analyze` writes: figures against plain counting, and a page that shows the tokens."""

import html.parser
import json
import math
import statistics
from types import SimpleNamespace

import pytest
import torch
from command_line import talr, train
from small_models import ScaledHead

from talr_cli.commands import analyze as command
from talr_cli.data.rendering import Rendered
from talr_cli.errors import UserError
from talr_cli.methods.objectives import Sft, Talr
from talr_cli.report.hard_tokens import html_page, summary, weigh
from talr_cli.statistics.easy_share import easy_share_by_epoch

RECORDS = [
    {"row": 0, "tokens": ["a", " <b>", "&"], "p": [0.9, 0.1, 0.5], "weight": [0.8, 0.01, 0.3]},
    {"row": 1, "tokens": ["x"], "p": [0.19], "weight": [0.05]},
]


def test_the_summary_counts_tokens_not_rows():
    figures = summary(RECORDS)
    assert figures["hard_share"] == 0.5
    assert figures["median_p"] == pytest.approx(0.345)
    assert figures["mean_weight"] == pytest.approx(1.16 / 4)


def test_steps_are_weighed_by_their_tokens_and_end_with_their_epoch():
    steps = [
        {"epoch": 0.5, "target_tokens": 10, "hard_token_share": 0.5},
        {"epoch": 1.0, "target_tokens": 30, "hard_token_share": 0.1},
        {"epoch": 1.5, "target_tokens": 20, "hard_token_share": 0.0},
        {"validation_loss": 1.0},
    ]
    first, second = easy_share_by_epoch(steps)
    assert first == {"epoch": 1, "easy_share": pytest.approx((5 + 27) / 40)}
    assert second == {"epoch": 2, "easy_share": 1.0}


def test_tokens_are_text_on_the_page_never_markup():
    class Reader(html.parser.HTMLParser):
        def __init__(self):
            super().__init__()
            self.marked, self.inside = [], False

        def handle_starttag(self, tag, attributes):
            assert tag != "b"
            self.inside = tag == "mark"

        def handle_data(self, data):
            if self.inside:
                self.marked.append(data)
                self.inside = False

    reader = Reader()
    reader.feed(html_page(RECORDS, summary(RECORDS)))
    assert reader.marked == [" <b>", "x", "&", "a"]  # the least likely first


def test_a_run_is_analyzed_on_its_own_rows(tmp_path):
    run = train("eval=false", "method=talr", "lr=1e-3", cwd=tmp_path)
    done = talr("analyze", f"ckpt={run}", "device=cpu", cwd=tmp_path, logger=None)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs/default/analysis").iterdir()
    figures = json.loads((folder / "summary.json").read_text())
    assert figures["rows"] == 24
    assert [one["epoch"] for one in figures["easy_share_by_epoch"]] == [1, 2]
    assert {path.name for path in folder.iterdir()} >= {
        *("tokens.jsonl", "tokens.html", "histogram.png", "histogram.svg")
    }


def test_a_model_whose_logits_are_of_another_kind_is_not_analyzed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load = command.load_model

    def with_another_head(*given):
        model = load(*given)
        model.lm_head = ScaledHead(model.lm_head)
        return model

    monkeypatch.setattr(command, "load_model", with_another_head)
    with pytest.raises(UserError, match="in a way of their own"):
        command.main(["model=tiny", "dataset.train_rows=4", "device=cpu"])


def test_weights_are_those_of_talr_over_all_rows_as_one_batch():
    """p ^ (1 / tau), where tau is the median of the rows' mean losses."""
    rows, talr = [[0.5, 0.125], [0.9, 0.8, 0.05], [0.3]], Talr()
    losses = [-torch.log(torch.tensor(row, dtype=torch.float64)) for row in rows]
    rendered = [Rendered([0] * len(row), [0] * len(row)) for row in rows]
    records = weigh(losses, rendered, talr, SimpleNamespace(decode=str))
    tau = statistics.median(statistics.fmean(-math.log(p) for p in row) for row in rows)
    for row, record in zip(rows, records, strict=True):
        expected = [max(p ** (1 / tau), talr.w_min) for p in row]
        assert record["weight"] == pytest.approx(expected, rel=1e-5)


def test_small_probabilities_are_told_apart():
    """To six places both were 0, and the first in the row counted as the hardest."""
    losses = -torch.log(torch.tensor([3e-8, 2e-9, 0.25], dtype=torch.float64))
    names = SimpleNamespace(decode=lambda ids: "abc"[ids[0]])
    records = weigh([losses], [Rendered([0, 1, 2], [0, 1, 2])], Sft(), names)
    assert records[0]["p"] == pytest.approx([3e-8, 2e-9, 0.25], rel=1e-5)
    page = html_page(records, summary(records))
    assert page.index("<td>2e-09</td>") < page.index("<td>3e-08</td>")
