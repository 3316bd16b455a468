"""Generated medical calculation problems in the manner of MedCalc-Bench, all of them ours.

A short patient note with a finding that is not needed, a question that states the rule, the working
step by step, the answer. The rule stands in the question so that a small model finds most of the
working easy and only the arithmetic hard, as larger models do in the study.
The patients are invented and the numbers drawn; the formulas are the published ones. Nothing is
read from disk: the same config gives the same rows on every machine.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from talr_cli.data.base import Example, Splits, check_target
from talr_cli.data.generated import in_turns
from talr_cli.scorers.medcalc import MedCalcScorer

# Which of ten buckets of a calculator's problems belong to which split.
_BUCKETS = {"train": range(6), "validation": range(6, 7), "test": range(7, 10)}
_MOST_DRAWS = 20_000


@dataclass(frozen=True)
class Problem:
    """What a calculator draws: what is asked, by which rule, findings for the note, the working."""

    asked: str
    rule: str
    findings: tuple[str, ...]
    working: str
    answer: float
    is_score: bool = False  # a count of points, right only when exact; else within 5 %


@dataclass
class MedCalcMini:
    """The dataset. The three splits share no problem, and none grows at another's cost."""

    name: str = "medcalc-mini"
    target: str = "explanation"  # explanation | label: the answer only
    train_rows: int = 160
    validation_rows: int = 32
    test_rows: int = 72
    data_seed: int = 0

    def load(self) -> Splits:
        """Generate the rows.

        Raises:
            UserError: `target` is unknown, or more rows are asked for than there are problems.
        """
        check_target(self.target)
        return Splits(
            train=self._rows("train", self.train_rows),
            validation=self._rows("validation", self.validation_rows),
            test=self._rows("test", self.test_rows),
            scorer=MedCalcScorer(),
        )

    def _rows(self, split: str, count: int) -> list[Example]:
        """`count` rows, the calculators taking turns."""
        streams = [(name, self._problems(name, split)) for name in CALCULATORS]
        return [
            self._example(f"{split}-{_slug(name)}-{index}", name, problem)
            for name, index, problem in in_turns(streams, f"{split}_rows", count, "problems")
        ]

    def _problems(self, name: str, split: str) -> Iterator[Problem]:
        """The calculator's problems that belong to the split, each once."""
        draw = random.Random(f"{self.data_seed} {name}")
        seen = set()
        for _ in range(_MOST_DRAWS):
            problem = CALCULATORS[name](draw)
            key = json.dumps([name, *sorted(problem.findings)])
            if key in seen:
                continue
            seen.add(key)
            bucket = hashlib.sha256(key.encode()).digest()[0] % 10
            if bucket in _BUCKETS[split]:
                yield problem

    def _example(self, row_id: str, name: str, problem: Problem) -> Example:
        draw = random.Random(f"{self.data_seed} {row_id}")
        answer = _number(problem.answer)
        line = f"Answer: {answer}"
        explained = f"{problem.working}\n{line}"
        margin = 0.0 if problem.is_score else 0.05 * abs(problem.answer)
        return Example(
            id=row_id,
            messages=({"role": "user", "content": _prompt(problem, draw, self.target)},),
            completion=line if self.target == "label" else explained,
            reference={
                "form": "integer" if problem.is_score else "decimal",
                "answer": answer,
                "lower": problem.answer - margin,
                "upper": problem.answer + margin,
            },
            group=name,
        )


_COMPLAINTS = (
    "a cough", "back pain", "tiredness", "a headache", "a sore throat", "dizziness",
    "stomach pain", "a swollen leg", "a fall at home", "a routine visit",
)  # fmt: skip
_UNNEEDED = (
    "Hemoglobin is {hemoglobin} g/dL.",
    "Oxygen saturation is {saturation}%.",
    "The platelet count is {platelets}.",
    "The lungs are clear.",
    "The abdomen is soft.",
    "There are no allergies.",
    "The skin is warm and dry.",
)


def _prompt(problem: Problem, draw: random.Random, target: str) -> str:
    unneeded = draw.choice(_UNNEEDED).format(
        hemoglobin=draw.randint(110, 159) / 10,
        saturation=draw.randint(94, 99),
        platelets=draw.randint(160, 390),
    )
    findings = [*problem.findings, unneeded]
    draw.shuffle(findings)
    opening = draw.choice(
        (
            "A patient comes in with {}.",
            "The patient is seen for {}.",
            "The patient came to the clinic with {}.",
        )
    ).format(draw.choice(_COMPLAINTS))
    how = "Write only" if target == "label" else "Write the working, then"
    note = " ".join([opening, *findings])
    question = f"Question: What is the {problem.asked}? {problem.rule}"
    return f"{note}\n{question} {how} 'Answer: <number>'."


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-")


def _number(value: float) -> str:
    """At most two decimals, without trailing zeros."""
    text = f"{value:.2f}"
    return text.rstrip("0").rstrip(".")


def _equation(
    asked: str, formula: str, findings: tuple[str, ...], steps: str, answer: float
) -> Problem:
    """The rule is `asked = formula`; the working repeats it and goes on with the steps."""
    rule = f"{asked} = {formula}"
    return Problem(asked, f"Use {rule}.", findings, f"{rule} = {steps}.", answer)


# Equations. Each draws from its generator and nothing else.


def body_mass_index(draw: random.Random) -> Problem:
    """Weight over squared height (Keys et al., J Chronic Dis 1972)."""
    weight, height = draw.randrange(45, 121), draw.choice((1.5, 1.6, 1.7, 1.8, 1.9, 2.0))
    square = round(height * height, 2)
    bmi = round(weight / square, 1)
    return _equation(
        "body mass index",
        "weight / height squared",
        (f"Weight is {weight} kg.", f"Height is {_number(height)} m."),
        f"{weight} / ({_number(height)} * {_number(height)}) = {weight} / {_number(square)} = "
        f"{_number(bmi)}",
        bmi,
    )


def mean_arterial_pressure(draw: random.Random) -> Problem:
    """(systolic + 2 diastolic) / 3 (Meaney et al., Heart 2000)."""
    diastolic = draw.randrange(50, 101)
    systolic = diastolic + 3 * draw.randrange(10, 25)
    total = systolic + 2 * diastolic
    return _equation(
        "mean arterial pressure",
        "(systolic + 2 * diastolic) / 3",
        (f"Blood pressure is {systolic}/{diastolic}.",),
        f"({systolic} + 2 * {diastolic}) / 3 = ({systolic} + {2 * diastolic}) / 3 = {total} / 3 = "
        f"{total // 3}",
        total / 3,
    )


def anion_gap(draw: random.Random) -> Problem:
    """Sodium - (chloride + bicarbonate) (Emmett and Narins, Medicine 1977)."""
    sodium, chloride = draw.randrange(130, 151), draw.randrange(92, 109)
    bicarbonate = draw.randrange(8, 18)
    rest = chloride + bicarbonate
    return _equation(
        "anion gap",
        "sodium - (chloride + bicarbonate)",
        (f"Sodium is {sodium}.", f"Chloride is {chloride}.", f"Bicarbonate is {bicarbonate}."),
        f"{sodium} - ({chloride} + {bicarbonate}) = {sodium} - {rest} = {sodium - rest}",
        sodium - rest,
    )


def corrected_calcium(draw: random.Random) -> Problem:
    """Calcium + 0.8 (4 - albumin) (Payne et al., Br Med J 1973)."""
    calcium, albumin = draw.randrange(70, 111) / 10, draw.choice((1.5, 2.0, 2.5, 3.0, 3.5))
    missing = 4 - albumin
    added = round(0.8 * missing, 1)
    return _equation(
        "corrected calcium",
        "calcium + 0.8 * (4 - albumin)",
        (f"Calcium is {_number(calcium)} mg/dL.", f"Albumin is {_number(albumin)} g/dL."),
        f"{_number(calcium)} + 0.8 * (4 - {_number(albumin)}) = {_number(calcium)} + 0.8 * "
        f"{_number(missing)} = {_number(calcium)} + {_number(added)} = {_number(calcium + added)}",
        round(calcium + added, 1),
    )


def creatinine_clearance(draw: random.Random) -> Problem:
    """(140 - age) weight / (72 creatinine), for men (Cockcroft and Gault, Nephron 1976)."""
    age, weight = draw.randrange(30, 91, 5), draw.choice((54, 60, 66, 72, 78, 84, 90))
    creatinine = draw.choice((0.5, 1.0, 1.5, 2.0))
    years, product, divisor = 140 - age, (140 - age) * weight, _number(72 * creatinine)
    clearance = round(product / (72 * creatinine), 1)
    return _equation(
        "creatinine clearance",
        "(140 - age) * weight / (72 * creatinine)",
        (
            f"He is a man of {age} years.",
            f"Weight is {weight} kg.",
            f"Creatinine is {_number(creatinine)} mg/dL.",
        ),
        f"(140 - {age}) * {weight} / (72 * {_number(creatinine)}) = {years} * {weight} / {divisor} "
        f"= {product} / {divisor} = {_number(clearance)}",
        clearance,
    )


def corrected_qt(draw: random.Random) -> Problem:
    """QT + 1.75 (heart rate - 60) (Hodges et al., J Am Coll Cardiol 1983)."""
    qt, rate = draw.randrange(340, 461, 5), draw.randrange(64, 121, 4)
    over, added = rate - 60, int(1.75 * (rate - 60))
    return _equation(
        "corrected QT",
        "QT + 1.75 * (heart rate - 60)",
        (f"QT is {qt} ms.", f"Heart rate is {rate}."),
        f"{qt} + 1.75 * ({rate} - 60) = {qt} + 1.75 * {over} = {qt} + {added} = {qt + added}",
        qt + added,
    )


def serum_osmolality(draw: random.Random) -> Problem:
    """2 sodium + glucose / 18 + urea nitrogen / 2.8 (Purssell et al., Ann Emerg Med 2001)."""
    sodium, glucose, urea = draw.randrange(125, 151), draw.randrange(4, 21), draw.randrange(1, 11)
    total = 2 * sodium + glucose + 5 * urea
    return _equation(
        "osmolality",
        "2 * sodium + glucose / 18 + urea nitrogen / 2.8",
        (
            f"Sodium is {sodium}.",
            f"Glucose is {18 * glucose} mg/dL.",
            f"Urea nitrogen is {14 * urea} mg/dL.",
        ),
        f"2 * {sodium} + {18 * glucose} / 18 + {14 * urea} / 2.8 = {2 * sodium} + {glucose} + "
        f"{5 * urea} = {total}",
        total,
    )


def ldl_cholesterol(draw: random.Random) -> Problem:
    """Total - HDL - triglycerides / 5 (Friedewald et al., Clin Chem 1972)."""
    total, hdl = draw.randrange(150, 281, 2), draw.randrange(30, 71)
    triglycerides = draw.randrange(50, 301, 10)
    fifth = triglycerides // 5
    return _equation(
        "LDL",
        "cholesterol - HDL - triglycerides / 5",
        (f"Cholesterol is {total}.", f"HDL is {hdl}.", f"Triglycerides are {triglycerides}."),
        f"{total} - {hdl} - {triglycerides} / 5 = {total - hdl} - {fifth} = {total - hdl - fifth}",
        total - hdl - fifth,
    )


def expected_carbon_dioxide(draw: random.Random) -> Problem:
    """1.5 bicarbonate + 8 (Albert, Dell and Winters, Ann Intern Med 1967)."""
    bicarbonate, ph = draw.randrange(4, 25), draw.randrange(705, 735) / 100
    part = _number(1.5 * bicarbonate)
    return _equation(
        "expected carbon dioxide",
        "1.5 * bicarbonate + 8",
        (f"The pH is {_number(ph)}.", f"Bicarbonate is {bicarbonate}."),
        f"1.5 * {bicarbonate} + 8 = {part} + 8 = {_number(1.5 * bicarbonate + 8)}",
        1.5 * bicarbonate + 8,
    )


def maintenance_fluid(draw: random.Random) -> Problem:
    """4, 2, 1 mL per kg and hour, here over 20 kg (Holliday and Segar, Pediatrics 1957)."""
    weight, age = draw.randrange(21, 81), draw.randrange(8, 60)
    return _equation(
        "maintenance fluid",
        "60 + (weight - 20)",
        (f"The patient is {age} years old.", f"Weight is {weight} kg."),
        f"60 + ({weight} - 20) = 60 + {weight - 20} = {weight + 40}",
        weight + 40,
    )


def ideal_body_weight(draw: random.Random) -> Problem:
    """50 kg for men, 45.5 kg for women, and 2.3 kg per inch over 60 (Devine 1974)."""
    inches, who = draw.randrange(62, 79), draw.choice(("man", "woman"))
    base = 50 if who == "man" else 45.5
    over, added = inches - 60, round(2.3 * (inches - 60), 1)
    return _equation(
        "ideal weight",
        "50 (man) or 45.5 (woman) + 2.3 * (height - 60)",
        (
            f"The patient is a {who} of {draw.randrange(20, 90)} years.",
            f"Height is {inches} inches.",
        ),
        f"{_number(base)} + 2.3 * ({inches} - 60) = {_number(base)} + 2.3 * {over} = "
        f"{_number(base)} + {_number(added)} = {_number(base + added)}",
        round(base + added, 1),
    )


def corrected_sodium(draw: random.Random) -> Problem:
    """Sodium + 1.6 per 100 mg/dL of glucose over 100 (Katz, N Engl J Med 1973)."""
    sodium, glucose = draw.randrange(118, 146), 100 * draw.randrange(2, 10)
    over, added = glucose - 100, round(0.016 * (glucose - 100), 1)
    return _equation(
        "corrected sodium",
        "sodium + 0.016 * (glucose - 100)",
        (f"Sodium is {sodium}.", f"Glucose is {glucose} mg/dL."),
        f"{sodium} + 0.016 * ({glucose} - 100) = {sodium} + 0.016 * {over} = {sodium} + "
        f"{_number(added)} = {_number(sodium + added)}",
        round(sodium + added, 1),
    )


def glasgow_coma_scale(draw: random.Random) -> Problem:
    """Eye + verbal + motor (Teasdale and Jennett, Lancet 1974)."""
    eye, verbal, motor = draw.randint(1, 4), draw.randint(1, 5), draw.randint(1, 6)
    problem = _equation(
        "coma scale",
        "eye + verbal + motor",
        (
            f"Eye response is {eye}.",
            f"Verbal response is {verbal}.",
            f"Motor response is {motor}.",
            f"Heart rate is {draw.randrange(60, 120)}.",
        ),
        f"{eye} + {verbal} + {motor} = {eye + verbal + motor}",
        eye + verbal + motor,
    )
    return replace(problem, is_score=True)


# Scores: points for findings. A finding that is absent is either denied or not mentioned.


@dataclass(frozen=True)
class _Criterion:
    """What the rule calls it, the finding that meets it, the one that does not, its points."""

    name: str
    met: str
    unmet: str
    points: int = 1


def _score(
    draw: random.Random, asked: str, criteria: tuple[_Criterion, ...], about: str
) -> Problem:
    findings, points = [about], []
    for criterion in criteria:
        is_met = draw.random() < 0.5
        points.append(criterion.points if is_met else 0)
        if is_met or draw.random() < 0.5:
            findings.append(criterion.met if is_met else criterion.unmet)
    worth = ", ".join(f"{one.name} {one.points}" for one in criteria)
    given = ", ".join(f"{one.name} {n}" for one, n in zip(criteria, points, strict=True))
    added = " + ".join(str(n) for n in points)
    return Problem(
        asked,
        f"Add the points: {worth}.",
        tuple(findings),
        f"The points: {given}. {asked} = {added} = {sum(points)}.",
        sum(points),
        is_score=True,
    )


def curb_65(draw: random.Random) -> Problem:
    """Lim et al., Thorax 2003."""
    return _score(
        draw,
        "CURB-65",
        (
            _Criterion("confusion", "The patient is confused.", "The patient is alert."),
            _Criterion(
                "urea over 19",
                f"Urea is {draw.randrange(20, 50)}.",
                f"Urea is {draw.randrange(8, 20)}.",
            ),
            _Criterion(
                "breathing over 29",
                f"Breathing rate is {draw.randrange(30, 40)}.",
                f"Breathing rate is {draw.randrange(12, 22)}.",
            ),
            _Criterion(
                "systolic under 90",
                f"Systolic pressure is {draw.randrange(70, 90)}.",
                f"Systolic pressure is {draw.randrange(105, 150)}.",
            ),
        ),
        f"The patient is {draw.randrange(25, 60)} years old.",
    )


def cha2ds2_vasc(draw: random.Random) -> Problem:
    """Lip et al., Chest 2010."""
    return _score(
        draw,
        "CHA2DS2-VASc",
        (
            _Criterion("heart failure", "There is heart failure.", "There is no heart failure."),
            _Criterion("hypertension", "There is hypertension.", "There is no hypertension."),
            _Criterion("diabetes", "There is diabetes.", "There is no diabetes."),
            _Criterion("stroke", "There was a stroke.", "There was no stroke.", 2),
            _Criterion("woman", "The patient is a woman.", "The patient is a man."),
        ),
        f"Heart rate is {draw.randrange(60, 140)}.",
    )


def centor(draw: random.Random) -> Problem:
    """Centor et al., Med Decis Making 1981."""
    return _score(
        draw,
        "Centor score",
        (
            _Criterion("fever", "There is fever.", "There is no fever."),
            _Criterion("no cough", "There is no cough.", "There is a cough."),
            _Criterion("swollen nodes", "There are swollen nodes.", "The nodes are normal."),
            _Criterion("pus", "There is pus.", "There is no pus."),
        ),
        f"The patient is {draw.randrange(15, 45)} years old.",
    )


def quick_sofa(draw: random.Random) -> Problem:
    """qSOFA (Singer et al., JAMA 2016)."""
    return _score(
        draw,
        "qSOFA",
        (
            _Criterion(
                "breathing over 21",
                f"Breathing rate is {draw.randrange(22, 36)}.",
                f"Breathing rate is {draw.randrange(12, 20)}.",
            ),
            _Criterion(
                "systolic under 101",
                f"Systolic pressure is {draw.randrange(80, 101)}.",
                f"Systolic pressure is {draw.randrange(105, 150)}.",
            ),
            _Criterion("confusion", "The patient is confused.", "The patient is alert."),
        ),
        f"Heart rate is {draw.randrange(80, 131)}.",
    )


def has_bled(draw: random.Random) -> Problem:
    """Pisters et al., Chest 2010."""
    return _score(
        draw,
        "HAS-BLED",
        (
            _Criterion("dialysis", "The patient is on dialysis.", "The kidneys are normal."),
            _Criterion("stroke", "There was a stroke.", "There was no stroke."),
            _Criterion("bleeding", "There was a major bleeding.", "There was no bleeding."),
            _Criterion("alcohol", "There is heavy use of alcohol.", "There is no use of alcohol."),
            _Criterion("aspirin", "The patient takes aspirin.", "The patient takes no drugs."),
        ),
        f"Weight is {draw.randrange(50, 100)} kg.",
    )


CALCULATORS: dict[str, Callable[[random.Random], Problem]] = {
    "Body Mass Index": body_mass_index,
    "CURB-65": curb_65,
    "Mean Arterial Pressure": mean_arterial_pressure,
    "CHA2DS2-VASc": cha2ds2_vasc,
    "Anion Gap": anion_gap,
    "Centor": centor,
    "Corrected Calcium": corrected_calcium,
    "qSOFA": quick_sofa,
    "Creatinine Clearance": creatinine_clearance,
    "HAS-BLED": has_bled,
    "Corrected QT": corrected_qt,
    "Glasgow Coma Scale": glasgow_coma_scale,
    "Serum Osmolality": serum_osmolality,
    "LDL Cholesterol": ldl_cholesterol,
    "Expected Carbon Dioxide": expected_carbon_dioxide,
    "Maintenance Fluid": maintenance_fluid,
    "Ideal Body Weight": ideal_body_weight,
    "Corrected Sodium": corrected_sodium,
}
