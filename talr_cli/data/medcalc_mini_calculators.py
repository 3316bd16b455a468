"""The calculators of medcalc-mini: data only. To add one, add an entry to CALCULATORS.

In a text `{weight}` stands for the value drawn under that name, and `{140 - age}` for the value of
that expression, which may have + - * / ^, brackets and names of one word. Values are written with
at most two decimals. The rows depend on the order of the draws and of the calculators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Calculator:
    """What an equation and a score have in common.

    Attributes:
        source: Where it was published.
        quantity: The quantity that the question asks for.
        draws: {a name, or several as "a, b": the values, or tuples of values, to draw from}.
        findings: The sentences of the note about the patient.
    """

    name: str
    source: str
    quantity: str
    draws: Mapping[str, Sequence[Any]]
    findings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Equation(Calculator):
    """A formula.

    Attributes:
        formula: The formula in words, as the question states it.
        working: The formula with the patient's numbers, then ` = ` and the simplified expression.
        result: The expression of the result, which is rounded to one decimal.
        is_count: Whether an answer has to be exact; otherwise it may be off by 5 %.
    """

    formula: str
    working: str
    result: str
    is_count: bool = False


@dataclass(frozen=True)
class Criterion:
    """A criterion of a score: its name in the rule, findings that meet it or do not, its points."""

    name: str
    met: str
    unmet: str
    points: int = 1


@dataclass(frozen=True, kw_only=True)
class Score(Calculator):
    """Points for findings, besides those that count for nothing. Right only when exact."""

    criteria: tuple[Criterion, ...]


def tenths(first: int, end: int) -> tuple[float, ...]:
    """first / 10, ..., (end - 1) / 10."""
    return tuple(number / 10 for number in range(first, end))


CALCULATORS: tuple[Equation | Score, ...] = (
    Equation(
        name="Body Mass Index",
        source="Keys et al., J Chronic Dis 1972",
        quantity="body mass index",
        draws={"weight": range(45, 121), "height": (1.5, 1.6, 1.7, 1.8, 1.9, 2.0)},
        findings=("Weight is {weight} kg.", "Height is {height} m."),
        formula="weight / height squared",
        working="{weight} / ({height} * {height}) = {weight} / {height * height}",
        result="weight / (height * height)",
    ),
    Score(
        name="CURB-65",
        source="Lim et al., Thorax 2003",
        quantity="CURB-65",
        draws={
            "high urea": range(20, 50),
            "low urea": range(8, 20),
            "fast": range(30, 40),
            "slow": range(12, 22),
            "low pressure": range(70, 90),
            "high pressure": range(105, 150),
            "age": range(25, 60),
        },
        findings=("The patient is {age} years old.",),
        criteria=(
            Criterion("confusion", "The patient is confused.", "The patient is alert."),
            Criterion("urea over 19", "Urea is {high urea}.", "Urea is {low urea}."),
            Criterion(
                "breathing over 29", "Breathing rate is {fast}.", "Breathing rate is {slow}."
            ),
            Criterion(
                "systolic under 90",
                "Systolic pressure is {low pressure}.",
                "Systolic pressure is {high pressure}.",
            ),
        ),
    ),
    Equation(
        name="Mean Arterial Pressure",
        source="Meaney et al., Heart 2000",
        quantity="mean arterial pressure",
        draws={"diastolic": range(50, 101), "third": range(10, 25)},  # of the pulse pressure
        findings=("Blood pressure is {diastolic + 3 * third}/{diastolic}.",),
        formula="(systolic + 2 * diastolic) / 3",
        working="({diastolic + 3 * third} + 2 * {diastolic}) / 3"
        " = ({diastolic + 3 * third} + {2 * diastolic}) / 3"
        " = {3 * diastolic + 3 * third} / 3",
        result="diastolic + third",
    ),
    Score(
        name="CHA2DS2-VASc",
        source="Lip et al., Chest 2010",
        quantity="CHA2DS2-VASc",
        draws={"rate": range(60, 140)},
        findings=("Heart rate is {rate}.",),
        criteria=(
            Criterion("heart failure", "There is heart failure.", "There is no heart failure."),
            Criterion("hypertension", "There is hypertension.", "There is no hypertension."),
            Criterion("diabetes", "There is diabetes.", "There is no diabetes."),
            Criterion("stroke", "There was a stroke.", "There was no stroke.", 2),
            Criterion("woman", "The patient is a woman.", "The patient is a man."),
        ),
    ),
    Equation(
        name="Anion Gap",
        source="Emmett and Narins, Medicine 1977",
        quantity="anion gap",
        draws={
            "sodium": range(130, 151),
            "chloride": range(92, 109),
            "bicarbonate": range(8, 18),
        },
        findings=(
            "Sodium is {sodium}.",
            "Chloride is {chloride}.",
            "Bicarbonate is {bicarbonate}.",
        ),
        formula="sodium - (chloride + bicarbonate)",
        working="{sodium} - ({chloride} + {bicarbonate}) = {sodium} - {chloride + bicarbonate}",
        result="sodium - (chloride + bicarbonate)",
    ),
    Score(
        name="Centor",
        source="Centor et al., Med Decis Making 1981",
        quantity="Centor score",
        draws={"age": range(15, 45)},
        findings=("The patient is {age} years old.",),
        criteria=(
            Criterion("fever", "There is fever.", "There is no fever."),
            Criterion("no cough", "There is no cough.", "There is a cough."),
            Criterion("swollen nodes", "There are swollen nodes.", "The nodes are normal."),
            Criterion("pus", "There is pus.", "There is no pus."),
        ),
    ),
    Equation(
        name="Corrected Calcium",
        source="Payne et al., Br Med J 1973",
        quantity="corrected calcium",
        draws={"calcium": tenths(70, 111), "albumin": (1.5, 2.0, 2.5, 3.0, 3.5)},
        findings=("Calcium is {calcium} mg/dL.", "Albumin is {albumin} g/dL."),
        formula="calcium + 0.8 * (4 - albumin)",
        working="{calcium} + 0.8 * (4 - {albumin}) = {calcium} + 0.8 * {4 - albumin}"
        " = {calcium} + {0.8 * (4 - albumin)}",
        result="calcium + 0.8 * (4 - albumin)",
    ),
    Score(
        name="qSOFA",
        source="Singer et al., JAMA 2016",
        quantity="qSOFA",
        draws={
            "fast": range(22, 36),
            "slow": range(12, 20),
            "low pressure": range(80, 101),
            "high pressure": range(105, 150),
            "rate": range(80, 131),
        },
        findings=("Heart rate is {rate}.",),
        criteria=(
            Criterion(
                "breathing over 21", "Breathing rate is {fast}.", "Breathing rate is {slow}."
            ),
            Criterion(
                "systolic under 101",
                "Systolic pressure is {low pressure}.",
                "Systolic pressure is {high pressure}.",
            ),
            Criterion("confusion", "The patient is confused.", "The patient is alert."),
        ),
    ),
    Equation(
        name="Creatinine Clearance",
        source="Cockcroft and Gault, Nephron 1976; for men",
        quantity="creatinine clearance",
        draws={
            "age": range(30, 91, 5),
            "weight": (54, 60, 66, 72, 78, 84, 90),
            "creatinine": (0.5, 1.0, 1.5, 2.0),
        },
        findings=(
            "He is a man of {age} years.",
            "Weight is {weight} kg.",
            "Creatinine is {creatinine} mg/dL.",
        ),
        formula="(140 - age) * weight / (72 * creatinine)",
        working="(140 - {age}) * {weight} / (72 * {creatinine})"
        " = {140 - age} * {weight} / {72 * creatinine}"
        " = {(140 - age) * weight} / {72 * creatinine}",
        result="(140 - age) * weight / (72 * creatinine)",
    ),
    Score(
        name="HAS-BLED",
        source="Pisters et al., Chest 2010",
        quantity="HAS-BLED",
        draws={"weight": range(50, 100)},
        findings=("Weight is {weight} kg.",),
        criteria=(
            Criterion("dialysis", "The patient is on dialysis.", "The kidneys are normal."),
            Criterion("stroke", "There was a stroke.", "There was no stroke."),
            Criterion("bleeding", "There was a major bleeding.", "There was no bleeding."),
            Criterion("alcohol", "There is heavy use of alcohol.", "There is no use of alcohol."),
            Criterion("aspirin", "The patient takes aspirin.", "The patient takes no drugs."),
        ),
    ),
    Equation(
        name="Corrected QT",
        source="Hodges et al., J Am Coll Cardiol 1983",
        quantity="corrected QT",
        draws={"qt": range(340, 461, 5), "rate": range(64, 121, 4)},
        findings=("QT is {qt} ms.", "Heart rate is {rate}."),
        formula="QT + 1.75 * (heart rate - 60)",
        working="{qt} + 1.75 * ({rate} - 60) = {qt} + 1.75 * {rate - 60}"
        " = {qt} + {1.75 * (rate - 60)}",
        result="qt + 1.75 * (rate - 60)",
    ),
    Equation(
        name="Glasgow Coma Scale",
        source="Teasdale and Jennett, Lancet 1974",
        quantity="coma scale",
        draws={
            "eye": range(1, 5),
            "verbal": range(1, 6),
            "motor": range(1, 7),
            "rate": range(60, 120),
        },
        findings=(
            "Eye response is {eye}.",
            "Verbal response is {verbal}.",
            "Motor response is {motor}.",
            "Heart rate is {rate}.",
        ),
        formula="eye + verbal + motor",
        working="{eye} + {verbal} + {motor}",
        result="eye + verbal + motor",
        is_count=True,
    ),
    Equation(
        name="Serum Osmolality",
        source="Purssell et al., Ann Emerg Med 2001",
        quantity="osmolality",
        draws={
            "sodium": range(125, 151),
            "glucose": range(72, 361, 18),
            "urea": range(14, 141, 14),
        },
        findings=(
            "Sodium is {sodium}.",
            "Glucose is {glucose} mg/dL.",
            "Urea nitrogen is {urea} mg/dL.",
        ),
        formula="2 * sodium + glucose / 18 + urea nitrogen / 2.8",
        working="2 * {sodium} + {glucose} / 18 + {urea} / 2.8"
        " = {2 * sodium} + {glucose / 18} + {urea / 2.8}",
        result="2 * sodium + glucose / 18 + urea / 2.8",
    ),
    Equation(
        name="LDL Cholesterol",
        source="Friedewald et al., Clin Chem 1972",
        quantity="LDL",
        draws={
            "total": range(150, 281, 2),
            "hdl": range(30, 71),
            "triglycerides": range(50, 301, 10),
        },
        findings=(
            "Cholesterol is {total}.",
            "HDL is {hdl}.",
            "Triglycerides are {triglycerides}.",
        ),
        formula="cholesterol - HDL - triglycerides / 5",
        working="{total} - {hdl} - {triglycerides} / 5 = {total - hdl} - {triglycerides / 5}",
        result="total - hdl - triglycerides / 5",
    ),
    Equation(
        name="Expected Carbon Dioxide",
        source="Albert, Dell and Winters, Ann Intern Med 1967",
        quantity="expected carbon dioxide",
        draws={
            "bicarbonate": range(4, 25),
            "ph": tuple(number / 100 for number in range(705, 735)),
        },
        findings=("The pH is {ph}.", "Bicarbonate is {bicarbonate}."),
        formula="1.5 * bicarbonate + 8",
        working="1.5 * {bicarbonate} + 8 = {1.5 * bicarbonate} + 8",
        result="1.5 * bicarbonate + 8",
    ),
    Equation(
        name="Maintenance Fluid",
        source="Holliday and Segar, Pediatrics 1957: 4, 2, 1 mL per kg and hour; here over 20 kg",
        quantity="maintenance fluid",
        draws={"weight": range(21, 81), "age": range(8, 60)},
        findings=("The patient is {age} years old.", "Weight is {weight} kg."),
        formula="60 + (weight - 20)",
        working="60 + ({weight} - 20) = 60 + {weight - 20}",
        result="60 + (weight - 20)",
    ),
    Equation(
        name="Ideal Body Weight",
        source="Devine, Drug Intell Clin Pharm 1974",
        quantity="ideal weight",
        draws={
            "height": range(62, 79),
            "who, base": (("man", 50), ("woman", 45.5)),
            "age": range(20, 90),
        },
        findings=("The patient is a {who} of {age} years.", "Height is {height} inches."),
        formula="50 (man) or 45.5 (woman) + 2.3 * (height - 60)",
        working="{base} + 2.3 * ({height} - 60) = {base} + 2.3 * {height - 60}"
        " = {base} + {2.3 * (height - 60)}",
        result="base + 2.3 * (height - 60)",
    ),
    Equation(
        name="Corrected Sodium",
        source="Katz, N Engl J Med 1973",
        quantity="corrected sodium",
        draws={"sodium": range(118, 146), "glucose": range(200, 1000, 100)},
        findings=("Sodium is {sodium}.", "Glucose is {glucose} mg/dL."),
        formula="sodium + 0.016 * (glucose - 100)",
        working="{sodium} + 0.016 * ({glucose} - 100) = {sodium} + 0.016 * {glucose - 100}"
        " = {sodium} + {0.016 * (glucose - 100)}",
        result="sodium + 0.016 * (glucose - 100)",
    ),
)
