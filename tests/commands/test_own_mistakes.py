"""Mistakes in parts of the user's own: one line with what it is and where, never a wrong number."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from command_line import SMALL

from talr_cli import api, ranks
from talr_cli.config.parts import make
from talr_cli.data.encoding import TokenRows, digest
from talr_cli.data.loading import load
from talr_cli.data.rendering import Rendered
from talr_cli.errors import UserError
from talr_cli.methods.base import Objective, TargetTokens
from talr_cli.methods.checks import (
    check_objective,
    check_schedule,
    checked_penalty,
    share_of_weight,
)
from talr_cli.scorers.user import judged
from talr_cli.training.rates import StepRates
from talr_cli.training.step_statistics import StepStatistics
from talr_cli.training.step_weights import StepWeights

IMPORTS = """from dataclasses import dataclass
from typing import Any
import torch
from talr_cli.data.base import Example, Splits
from talr_cli.methods.base import Objective, Regulariser
from talr_cli.methods.schedules import Schedule
from talr_cli.scorers.base import Verdict
"""
ALONE = SimpleNamespace(num_processes=1, process_index=0, device="cpu")
P = "tokens.log_probs.detach().exp()"
ROW = (
    "Example(id=str(n), messages=({'role': 'user', 'content': f'Twice {n}?'},), "
    "completion=str(2 * n), reference={'answer': str(2 * n)})"
)


@pytest.fixture
def part(own_folder):
    """Write a class `Own` of a group into a file of its own, and make it as the user does."""

    def made(group, text, name="mine", target=None):
        Path(f"{name}.py").write_text(f"{IMPORTS}{text}\n")
        found, problems = make(group, {"_target_": target or f"{name}.Own"}, is_stored=False)
        if problems:
            raise UserError(*problems)
        return found

    return made


def objective(weights, more=""):
    body = f"{more}\n    def weights(self, tokens, tau):\n        {weights}"
    return f"@dataclass\nclass Own(Objective):\n    pass\n{body}"


IMPORTED = {
    "raises": ("raise RuntimeError('broken')", r"\(RuntimeError: broken at .*mine.py:8\)"),
    "absent": ("import nosuchpackage", r"No module named 'nosuchpackage' at .*mine.py:8\)$"),
    "relative": ("from . import other", r"at .*mine.py:8\); write `import NAME` for a file"),
    "syntax": ("class Own(Objective)\n    pass", r"SyntaxError: .* at .*mine.py:8\)$"),
    "ends": ("raise SystemExit(3)", r"\(SystemExit: 3 at .*mine.py:8\)$"),
    "misnamed": ("class Owm(Objective): pass", r"Own is not there in .*mine.py \(did you mean Owm"),
    "made": (
        "@dataclass\nclass Own(Objective):\n    def __post_init__(self):\n        1 / 0\n"
        "    def weights(self, tokens, tau): ...",
        r"mine.Own cannot be made \(ZeroDivisionError: division by zero at .*mine.py:11\)",
    ),
}


@pytest.mark.parametrize("mistake", IMPORTED)
def test_a_file_that_cannot_be_imported_is_named_with_the_line(mistake, part):
    text, expected = IMPORTED[mistake]
    with pytest.raises(UserError, match=expected) as error:
        part("objective", text)
    assert "\n" not in str(error.value)


def test_a_file_with_the_name_of_another_module_is_named(part):
    with pytest.raises(UserError, match=r"in .*colorsys.py; colorsys.py is not looked at"):
        part("objective", objective(f"return {P}"), name="colorsys")
    with pytest.raises(UserError, match=r"nowhere cannot be .*; install it, or run"):
        part("objective", "", target="nowhere.Own")


def test_jobs_and_ranks_look_in_the_current_folder_last(tmp_path):
    """They are started as `python -m talr_cli.cli`, which looks there first."""
    for name in ("random", "tempfile", "difflib"):
        Path(tmp_path, f"{name}.py").write_text("raise SystemExit('the file of the user')")
    command = [sys.executable, "-m", "talr_cli.cli", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith("talr ")


OBJECTIVES = {
    "place": (objective("raise KeyError('x')"), r"with KeyError: 'x' at .*mine.py:13$"),
    "ends": (objective("raise SystemExit('x')"), r"with SystemExit: x at .*mine.py:13$"),
    "shape": (objective("return torch.ones(1)"), r"gave the shape \[1\] where .* shape \[5\]"),
    "none": (objective(P), "gave NoneType where a tensor"),
    "numpy": (objective(f"return {P}.numpy()"), "gave ndarray where a tensor"),
    "in place": (
        objective("return tokens.log_probs.exp_()"),
        "changes tokens.log_probs",
    ),
    "outputs": (
        objective(f"return {P}", "    outputs = ('entropie',)"),
        "tuple of some of",
    ),
    "no tuple": (
        objective(f"return {P}", "    outputs = ('entropy')"),
        "tuple of some of",
    ),
    "scope": (
        objective(f"return {P}", "    tau_scope = 'batch'"),
        "is none of none, ",
    ),
    "tau": (
        objective(
            f"return {P}",
            "    tau_scope = 'step'\n    def temperature(self, losses): return float(losses[0])",
        ),
        r"temperature of mine.Own gave float where a tensor of the shape \[\]",
    ),
    "mask": (
        objective(
            f"return {P}",
            "    masks_targets = True\n"
            "    def target_mask(self, losses): return losses / losses.max()",
        ),
        r"target_mask of mine.Own gave torch.float32 where torch.bool is wanted",
    ),
    "rows": (
        objective(
            f"return {P}",
            "    weighs_sequences = True\n"
            "    def sequence_weights(self, losses): return losses.mean()",
        ),
        r"sequence_weights of mine.Own gave the shape \[\] where a tensor of the shape \[2\]",
    ),
}


@pytest.mark.parametrize("mistake", OBJECTIVES)
def test_an_objective_is_tried_before_the_training(mistake, part):
    text, expected = OBJECTIVES[mistake]
    with pytest.raises(UserError, match=expected):
        check_objective(part("objective", text))


def test_weights_of_another_shape_are_refused_in_the_training_too(part):
    own = part("objective", objective("return torch.ones(5)"))
    check_objective(own)
    three = TargetTokens(torch.tensor([-0.1, -0.2, -0.3]), torch.tensor([0, 0, 1]))
    with pytest.raises(UserError, match=r"weights of mine.Own gave the shape \[5\] where .*\[3\]"):
        StepWeights(own, ALONE).next_weights(three)
    nothing = TargetTokens(torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert StepWeights(own, ALONE).next_weights(nothing)[0].shape == (0,)  # it is not asked


def test_a_weight_that_is_negative_in_the_training_ends_it(part):
    check_objective(part("objective", objective("return tokens.log_probs.detach() + 3")))
    Path("conf/objective").mkdir(parents=True)
    Path("conf/objective/own.yaml").write_text("_target_: mine.Own\n")
    small = [*SMALL, "logger=none", "eval=false", "trainer.max_steps=1", "objective=own"]
    with pytest.raises(UserError, match=r"mine.Own gave a target the weight -\d.*not negative"):
        api.train(*small, config_dir="conf")


@pytest.mark.parametrize(
    ("losses", "weights", "is_wrong"),
    [
        ([1.0, 2.0], [0.5, 2.0], False),
        ([1.0, 2.0], [0.5, torch.nan], True),
        ([1.0, 2.0], [torch.inf, 0.5], True),
        ([torch.nan, 2.0], [torch.nan, 0.5], False),
    ],
)
def test_a_weight_that_is_no_number_is_told_from_a_training_that_diverges(
    losses, weights, is_wrong
):
    statistics = StepStatistics()
    log_probs = -torch.tensor(losses)
    statistics.add(TargetTokens(log_probs, torch.tensor([0, 0])), torch.tensor(weights), None, 2)
    if is_wrong:
        with pytest.raises(UserError, match="the weight no finite number"):
            statistics.flush(ALONE, Objective())
    else:
        assert "least_weight" not in statistics.flush(ALONE, Objective())


def schedule(share):
    return f"@dataclass\nclass Own(Schedule):\n    def share(self, step, steps):\n        {share}"


def test_a_schedule_is_not_asked_after_the_last_step_and_its_shares_are_checked(part):
    weight = torch.nn.Parameter(torch.ones(1))
    table = part("schedule", schedule("return [1.0, 0.5, 0.25, 0.125][:steps][step]"))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    rates, seen = StepRates(optimizer, table, 2), []
    for _ in range(2):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rates.step()
    assert seen == [1.0, 0.5]
    late = part("schedule", schedule("return 1.0 if steps == 4 or step == 0 else -1.0"))
    check_schedule(late)
    rates = StepRates(optimizer, late, 2)
    optimizer.step()
    with pytest.raises(UserError, match=r"gave -1.0 at step 1 of 2"):
        rates.step()
    with pytest.raises(UserError, match=r"step 0 of 4 with ZeroDivisionError: .* at .*mine.py:11$"):
        check_schedule(part("schedule", schedule("return 1 / step")))


def test_a_penalty_that_would_do_nothing_or_is_no_number_is_refused():
    weight = torch.ones(3, requires_grad=True)
    for penalty, found in ((0.5, "float"), (weight, r"the shape \[3\]")):
        for method in ("loss", "add_gradient"):
            with pytest.raises(UserError, match=f"{method} gave {found}: a tensor with one"):
                checked_penalty(method, penalty)
    with pytest.raises(UserError, match="without gradient, which would change nothing"):
        checked_penalty("loss", weight.sum().detach())
    assert checked_penalty("loss", weight.sum()) == 3
    assert checked_penalty("add_gradient", weight.sum().detach()) == 3


def test_a_regulariser_that_adds_nothing_is_refused(part):
    text = "@dataclass\nclass Own(Regulariser):\n    def start(self, model, load_base): pass\n"
    with pytest.raises(UserError, match=r"lacks `def add_gradient\(.*` or `def loss\("):
        part("regulariser", f"{text}    def add_gradients(self, model): pass")


def merge(alphas, more="    name = 'own'", field="    alpha: Any = None\n"):
    text = f"@dataclass\nclass Own:\n{field}{more}\n    @property\n    def alphas(self): "
    return f"{text}return {alphas}"


MERGES = {
    "no list": (merge("0.5"), "has the alphas 0.5: a property gives a list"),
    "no number": (merge("[float('nan')]"), r"has the alphas \[nan\]"),
    "empty": (merge("[]"), r"has the alphas \[\]"),
    "no field": (merge("[0.5]", field=""), "lacks `alpha: Any = None`"),
    "deaf": (merge("[0.25, 0.5]"), r"with alpha=0.25 has the alphas \[0.25, 0.5\]"),
    "alike": (
        merge("[0.25, 0.5] if self.alpha is None else [self.alpha]"),
        r"has the names \['own', 'own'\] for the alphas",
    ),
    "raises": (merge("[1 / 0]"), r"ZeroDivisionError: division by zero at .*mine.py:13"),
}


@pytest.mark.parametrize("mistake", MERGES)
def test_a_merge_is_checked_before_anything_is_trained_for_it(mistake, part):
    text, expected = MERGES[mistake]
    with pytest.raises(UserError, match=expected):
        part("merge", text)


def test_the_alpha_of_a_weight_is_a_number():
    own = SimpleNamespace(share_of=lambda tensor, layers: float("nan"))
    with pytest.raises(UserError, match=r"gave nan for lm_head.weight: give"):
        share_of_weight(own, "lm_head.weight", 2)
    own = SimpleNamespace(share_of=lambda tensor, layers: int(tensor))
    with pytest.raises(UserError, match=r"failed for lm_head.weight with ValueError: .* at .*py"):
        share_of_weight(own, "lm_head.weight", 2)


def dataset(rows=f"[{ROW} for n in range(4)]", end="Splits(rows[2:], [], rows[:2], Judge())"):
    judge = (
        "class Judge:\n    def __call__(self, output, reference): return Verdict(True, output)\n"
    )
    text = "@dataclass\nclass Own:\n    name: str = 'own'\n    def load(self):\n"
    return f"{judge}{text}        rows = {rows}\n        return {end}"


DATASETS = {
    "nothing": (dataset(end="None"), "mine.Own loads NoneType: give Splits"),
    "a tuple": (dataset(end="rows, [], rows, Judge()"), "mine.Own loads tuple: give Splits"),
    "raises": (dataset(end="rows[0]['id']"), r"cannot be loaded \(TypeError: .* at .*mine.py:15\)"),
    "a class": (dataset(end="Splits(rows, [], rows, Judge)"), "has the scorer <class"),
    "dicts": (dataset(rows="[{'id': '1'}]", end="Splits(rows, [], [], None)"), "is a dict, no"),
    "number": (dataset().replace("completion=str(2 * n)", "completion=2 * n"), r"has 4 as comp"),
    "id": (dataset().replace("id=str(n)", "id=n"), "has 2 as id: a text is wanted"),
    "role": (dataset().replace("'role': 'user', ", ""), "as messages: some {'role'"),
    "no test": (dataset(end="Splits(rows, [], None, None)"), "cannot be loaded"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", DATASETS)
def test_datasets_of_the_users_own_are_checked(mistake, part):
    text, expected = DATASETS[mistake]
    with pytest.raises(UserError, match=expected):
        load(part("dataset", text))


def test_own_rows_may_be_generators_and_repeated_ids_are_numbered(part):
    rows = dataset(end="Splits((r for r in rows), [], (r for r in rows), None)")
    found = load(part("dataset", rows.replace("id=str(n)", "id='x'")))
    assert [row.id for row in found.test] == ["x", "x#2", "x#3", "x#4"]
    assert len(found.train) == 4


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("None", "answered with None of type NoneType"),
        ("Verdict(7.0, output)", "answered with Verdict.correct=7.0"),
        ("Verdict(float('nan'), output)", "answered with Verdict.correct=nan"),
        ("Verdict('yes', output)", "answered with Verdict.correct='yes'"),
        ("int(output)", r"failed with ValueError: invalid literal .* at .*mine.py:9$"),
        ("Verdict(True, output, {'x': torch.ones(1)})", "gave a detail that JSON cannot hold"),
    ],
)
def test_verdicts_of_the_scorer_of_own_rows_are_checked(answer, expected, part):
    text = dataset().replace("Verdict(True, output)", answer)
    scorer = load(part("dataset", text)).scorer
    with pytest.raises(UserError, match=f"the scorer mine.Judge {expected}"):
        judged(scorer, "four", {"answer": "4"})


def test_a_scorer_of_own_rows_may_answer_as_a_function_does(part):
    for answer, correct in (("output == reference['answer']", True), ("0.25", 0.25)):
        text = dataset().replace("Verdict(True, output)", answer)
        scorer = load(part("dataset", text)).scorer
        assert judged(scorer, "4", {"answer": "4"}).correct == correct


def test_ranks_that_read_rows_in_another_order_are_refused(monkeypatch):
    """The order of a set differs between processes; ranks would take rows twice, and others not."""
    one, other = Rendered([1, 2, 3], [-100, 2, 3]), Rendered([1, 2], [-100, 2])
    there, here = digest(TokenRows([other, one])), digest(TokenRows([one, other]))
    assert here == digest(TokenRows([one]), TokenRows([other])) != there
    assert digest(TokenRows([one])) != digest(TokenRows([replace(one, labels=[1, 2, 3])]))
    monkeypatch.setattr(ranks, "gather", lambda values: [*values, there])
    with pytest.raises(UserError, match="differ in the rows"):
        ranks.require_agreement(here, "the rows")
