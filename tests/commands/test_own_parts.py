"""Parts of the user's own, from a folder outside the package: one file, one YAML, no list."""

import json

from command_line import talr

OBJECTIVE = '''
from dataclasses import dataclass
from talr_cli.fields import value
from talr_cli.methods.base import Objective


@dataclass
class Focal(Objective):
    """Tokens that the model already knows weigh little."""

    gamma: float = value("how little", 2.0, at_least=0)

    def weights(self, tokens, tau):  # log_probs[N] of the targets -> weights[N]
        return (1 - tokens.log_probs.detach().exp()) ** self.gamma
'''

REGULARISER = '''
from dataclasses import dataclass
from talr_cli.methods.base import Regulariser


@dataclass
class Pull(Regulariser):
    """Half the squared distance of the first weight to its start."""

    strength: float = 0.5

    def start(self, model, load_base):
        self._start = next(model.parameters()).detach().clone()

    def add_gradient(self, model):
        weight = next(model.parameters())
        weight.grad += self.strength * (weight.detach() - self._start)
        return self.strength / 2 * (weight.detach() - self._start).square().sum()
'''

DATASET = '''
from dataclasses import dataclass
from talr_cli.data.base import Example, Splits
from scorers import Ends


@dataclass
class Doubles:
    """What is twice a number?"""

    name: str = "doubles"
    rows: int = 8

    def load(self):
        rows = [
            Example(
                id=str(n),
                messages=({"role": "user", "content": f"Twice {n}?"},),
                completion=str(2 * n),
                reference={"answer": str(2 * n)},
            )
            for n in range(self.rows + 2)
        ]
        return Splits(rows[2:], [], rows[:2], Ends())
'''

SCORER = '''
from talr_cli.scorers.base import Verdict


class Ends:
    """The output ends with the answer."""

    def __call__(self, output, reference):
        return Verdict(output.strip().endswith(reference["answer"]), output)
'''

CONFIG = {
    "objective/focal.yaml": "_target_: objectives.Focal\ngamma: 1.0\n",
    "regulariser/pull.yaml": "_target_: regularisers.Pull\nstrength: 0.5\n",
    "dataset/doubles.yaml": "_target_: datasets_of_mine.Doubles\nname: doubles\nrows: 8\n",
}


def test_each_part_is_one_file_and_one_yaml(tmp_path):
    for name, text in (
        ("objectives", OBJECTIVE),
        ("regularisers", REGULARISER),
        ("datasets_of_mine", DATASET),
        ("scorers", SCORER),
    ):
        assert len(text.splitlines()) < 60
        (tmp_path / f"{name}.py").write_text(text)
    for name, text in CONFIG.items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    own = ("--config-dir", "mine", "objective=focal", "regulariser=pull", "dataset=doubles")
    done = talr(
        *("train", *own, "model=tiny", "trainer.max_steps=2", "dataset.rows=6", "device=cpu"),
        *("suite.tasks=[mini_python]", "limit=2", "domain.max_new_tokens=4", "suite.drift=false"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / done.stdout.rpartition("run directory: ")[2].strip()
    assert run.name.startswith("focal+pull-")
    results = json.loads((run / "results.json").read_text())
    assert results["domain"]["n"] == 2
    wrong = talr("train", *own, "objective.gamma=-1", "model=tiny", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "objective.gamma=-1.0 is outside [0, infinity)" in wrong.stderr
