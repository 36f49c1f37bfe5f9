"""What the terminal shows."""

import io

import numpy as np
import pytest
from rich.console import Console

from lightning_graceful.report.compatibility.table import print_compatibility
from tests.report.compatibility.summaries import (
    DRAWS,
    by_draw,
    by_measure,
    empty,
    hostile,
    made,
    minimal,
    rich,
    small_gap,
    versions,
)


def printed(summary, width=80):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_compatibility(summary, console)
    return console.file.getvalue()


def line(text, start):
    return next(one for one in text.splitlines() if one.startswith(start)).split()


@pytest.mark.parametrize("make", [rich, small_gap, minimal, empty, hostile])
def test_it_fits_into_80_columns(make):
    text = printed(make())
    assert max(map(len, text.splitlines())) <= 80


def test_no_number_is_cut():
    text = printed(rich())
    assert "…" not in text
    wide = made(rise=(-0.312, -0.3, -0.299), tax=(0.154, 0.1, 0.1), detail="")
    text = printed(minimal(ways=(wide,), paragon_self_test=rich().paragon_self_test))
    assert "…" not in text
    assert "[-32.0, -30.4]" in text
    assert "[-1.61, -1.51]" in text
    assert "[15.0, 15.8]" in text


# Of conf/ways/bct.yaml, the longest.
LONG = ("class_collapse", "cosine_influence", "mixed_gallery", "gallery_search", "independent")


def first_column(text, width):
    """What stands in the first letters of the rows of ways, without breaks."""
    rows = text.split("old/old    ", 1)[1].split("paragon")[0].splitlines()
    return "".join(row[:width].strip() for row in rows[1:])


@pytest.mark.parametrize("tax", [0.154, -0.154])
def test_names_are_whole_beside_the_widest_numbers(tax):
    ways = [made(name, rise=(-0.312,) * 3, tax=(tax,) * 3, shared_self_test=by_measure(0.6, 0.5, 0.4)) for name in LONG]
    text = printed(minimal(ways=tuple(ways), paragon_self_test=by_measure(0.72, 0.65, 0.94)))
    table = text.split("paragon")[0]
    assert "…" not in table
    assert max(map(len, text.splitlines())) <= 80
    assert first_column(text, 10 if tax < 0 else 11) == "".join(LONG)
    if tax > 0:
        assert [row.split()[0] for row in table.splitlines() if row.startswith(("cosine", "mixed"))] == [
            "cosine_",
            "mixed_",
        ]
    for number in ("[-32.0, -30.4]", "[-1.61, -1.51]", "[15.0, 15.8]" if tax > 0 else "[-15.8, -15.0]"):
        assert table.count(number) == len(LONG)


def test_many_groups_stand_a_few_abreast():
    text = printed(by_draw(LONG)).split("by group of queries")[1]
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    blocks = text.strip().split("\n\n")
    assert len(blocks) == 4
    for number, block in enumerate(blocks):
        head, _, body = block.partition("─")
        assert all(word.strip(",") in head for draw in DRAWS[3 * number : 3 * number + 3] for word in draw.split())
        for place, name in enumerate(LONG):
            shares = [40 + place + 2 * draw for draw in range(3 * number, 3 * number + 3)]
            cells = [word for share in shares for word in (f"{share}.0", f"[{share - 1}.0,", f"{share + 1}.0]")]
            assert line(body, name) == [name, *cells]


def test_numbers_stand_in_their_columns():
    text = printed(small_gap())
    assert line(text, "old/old") == ["old/old", "52.0", "74.0", "52.0"]
    assert line(text, "copy") == ["copy", "57.0", "(+5.0)", "n/a", "76.0", "(+2.0)", "51.0", "n/a", "yes"]
    assert "[+4.2, +5.8] (gap 2.3 points)" in text
    assert line(text, "paragon") == ["paragon", "54.3"]
    assert "(no paragon)" in printed(minimal())


def test_what_is_built_on_old_embeddings_is_told():
    text = printed(rich())
    assert line(text, "10 old clusters")[-3:] == ["51.2", "55.8", "68.6"]
    assert line(text, "old head")[-2:] == ["flips", "6.1"]
    assert "Built on old embeddings" not in printed(minimal())


def test_verdicts_are_explained_where_they_need_it():
    assert "holds 0" not in printed(minimal())
    text = printed(minimal(ways=(made("a", rise=(0.05, 0.04, 0.001)), made("b", rise=(0.05, 0.04, -0.1)))))
    assert line(text, "a ")[-1] == "yes?"
    assert line(text, "b ")[-1] == "mixed"
    assert "?: the interval of the difference from old/old holds 0 in a measure." in text
    assert "mixed: above old/old in some measures only." in text


def test_two_spaces_are_told_apart():
    text = printed(rich())
    assert "*: self test in the space that is compatible with the old one." in text
    assert any(one.endswith("*") for one in text.split() if one.startswith("73.9"))
    assert "*: self test" not in printed(minimal())


def test_everything_else_follows():
    text = printed(rich())
    for words in ("by group of queries", "Average compatibility 0.83", "area", "Chain: tax", "closed protocol"):
        assert words.lower() in text.lower()
    assert line(text, "v4") == ["v4", "50.8", "65.5*", "70.0*", "74.5"]
    assert line(text, "contrastive, random") == ["contrastive,", "random", "mAP", "67.0", "71.2", "75.5", "71.2"]
    assert "v4 2.1 [1.6, 2.6] 3.4 2.4 1.6" in " ".join(text.split())
    assert "40 queries found a right item before and no longer do; 20 the reverse." in text
    assert text.rstrip().endswith("Embeddings are compared by cosine; ties are broken by position.")


def test_of_many_versions_the_last_are_shown():
    text = printed(minimal(matrix=versions(14)))
    assert "the last 9 of 14 versions" in text
    assert line(text, "v14")[-1] == f"{100 * (0.52 + 0.075 * 13):.1f}"
    assert max(map(len, text.splitlines())) <= 80
    assert "v5 " not in text


def test_what_is_nan_is_said_to_be():
    nothing = versions(2)
    nothing.values[:] = np.nan
    assert line(printed(minimal(matrix=nothing)), "v2") == ["v2", "n/a", "n/a"]


def test_bad_strings_do_nothing_to_the_terminal():
    text = printed(hostile())
    assert all(sign.isprintable() or sign == "\n" for sign in text)
    assert "[bold]" in printed(minimal(ways=(made("[bold]a"),), notes=("[red]b[/red]",)))
    assert "[red]b[/red]" in printed(minimal(notes=("[red]b[/red]",)))
