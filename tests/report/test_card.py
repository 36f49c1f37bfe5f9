import pytest

from lightning_graceful.report.answers import Reading
from lightning_graceful.report.budgets import parse_budget
from lightning_graceful.report.card import card, card_lines
from lightning_graceful.report.compare import Question, compare_files
from lightning_graceful.report.verdict import Rules
from tests.report.prediction_files import write_csv


def summary(folder, *budgets, rows=1000, broke=30, fixed=60, candidates=("new",), about=None, mine=None, **question):
    target, old = "a" * rows, "a" * (rows - fixed) + "b" * fixed
    new = "b" * broke + "a" * (rows - broke)
    old = write_csv(folder / "old.csv", {"id": range(rows), "target": target, "label": old, **(about or {})})
    files = {
        name: write_csv(folder / f"{name}.csv", {"id": range(rows), "label": new, **(mine or {})})
        for name in candidates
    }
    rules = Rules([parse_budget(text) for text in budgets])
    return compare_files(old, files, question=Question(rules=rules, **question))


def text(found, place=0):
    sections = card(found.candidates[place], found)
    return [line for title, lines in sections for line in (title, *lines)]


def test_card_leads_with_counts_and_says_why(tmp_path):
    assert text(summary(tmp_path, "nfr=0.01"))[:5] == [
        "REJECT new: 30 cases broke, 60 fixed",
        "NFR 3.00 % [2.03, 4.26] in all rows: the lower bound is above 1 %.",
        "What changed",
        "30 cases broke, 60 fixed (1,000 samples tested).",
        "NFR 3.00 % [2.03, 4.26]. Error 6.00 % before, 3.00 % now: -3.00 points [-4.92, -1.17], lower.",
    ]


def test_without_a_budget_it_says_what_could_be_seen(tmp_path):
    assert text(summary(tmp_path, broke=1, fixed=0))[:2] == [
        "new: 1 case broke, 0 fixed",
        "No budget was given, so there is no verdict. 1,000 samples would show an NFR of 0.16 % or more in 8 cases of "
        "10.",
    ]


@pytest.mark.parametrize(
    ("broke", "words"),
    [
        (0, "NFR 0.00 % [0.00, 0.37]"),
        (30, "not distinguishable."),
        (200, "less than the candidate."),
    ],
)
def test_noise_floor_beside_the_candidate(broke, words, tmp_path):
    again = write_csv(tmp_path / "again.csv", {"id": range(1000), "label": "b" * 30 + "a" * 970})
    found = summary(tmp_path, broke=broke, retrain=again)
    line = next(line for line in card_lines(found.first, found) if line.startswith("Noise floor"))
    assert line.startswith("Noise floor: one recipe trained twice has an NFR of 3.00 % [2.03, 4.26], ")
    assert line.endswith("more than the candidate." if not broke else words)


def test_several_candidates_are_compared_with_the_first(tmp_path):
    found = summary(tmp_path, candidates=("one", "two"))
    lines = card_lines(found.candidates[1], found)
    assert lines[0] == "two: 30 cases broke, 60 fixed (1,000 samples tested)."
    assert lines[2] == "NFR against one: +0.00 points [-0.38, +0.38], not distinguishable."


def test_for_whom(tmp_path):
    about = {"country": ["IS"] * 30 + ["NO"] * 970}
    lines = text(summary(tmp_path, about=about, reading=Reading(("country",))))
    place = lines.index("For whom")
    assert lines[place + 1 : place + 3] == [
        "country=IS (n = 30): 30 broke, 0 fixed, NFR 100.00 % [88.43, 100.00]; got worse (exploring, adjusted "
        "p 2.8e-09).",
        "class=a (n = 1,000): 30 broke, 60 fixed, NFR 3.00 % [2.03, 4.26]; got better (exploring, adjusted p 0.0021).",
    ]


def test_confidence_and_threshold(tmp_path):
    sure = {"confidence": [0.9] * 1000}
    lines = text(summary(tmp_path, about=sure, mine={"confidence": [0.8] * 1000}, threshold=(0.7, 0.85)))
    assert "At the operating threshold 0.7 (old) and 0.85 (new)" in lines
    words = "All figures are at the threshold. By first answers: 30 cases broke, 60 fixed; NFR 3.00 % [2.03, 4.26]."
    assert words in lines
    shift = "Mean confidence 90.00 % before, 80.00 % now (-10.00 points): a fixed threshold holds more back."
    assert shift in lines


def test_worst_flips_say_all_that_is_known(tmp_path):
    about = {"country": ["IS"] * 1000, "cost": [7.5, *[1] * 999], "seed": [4] * 1000, "confidence": [0.5] * 1000}
    mine = {"seed": [4] * 1000, "confidence": [0.96] * 1000}
    lines = text(summary(tmp_path, about=about, mine=mine, reading=Reading(("country",))))
    worst = lines[lines.index("Worst flips") + 1 : lines.index("Remarks")]
    assert worst[0] == "id 0, seed 4: a -> b (96 % sure), cost 7.5, country=IS"
    assert len(worst) == 5


def test_many_rules_are_summed_up(tmp_path):
    about = {"x": [f"{number % 8}" for number in range(1000)]}
    lines = text(summary(tmp_path, "nfr=0.001", about=about, broke=300, reading=Reading(("x",))))
    assert lines[6] == "4 more rules with this outcome."


def test_remarks_come_last(tmp_path):
    lines = text(summary(tmp_path, about={"hair": ["x"] * 1000}))
    assert lines[lines.index("Remarks") + 1] == "Not used in old.csv: hair."
    assert lines.index("Remarks") > lines.index("Worst flips")
