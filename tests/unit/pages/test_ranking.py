"""Which stacks come first."""

from dataclasses import replace

import pytest

from densecell_batch.pages.entries import Amount, StackEntry
from densecell_batch.pages.ranking import rank

GOOD = StackEntry(
    "good", model="m 1", slices=10, alike=True, fit=0.4, confidence=0.93, disagreement=0.1, own_disagreement=0.2,
    outside=0.0, grey_mean=128.0, grey_deviation=50.0, classes={"cell": Amount("#ff0000", 100, 1.0, 0.5)},
)  # fmt: skip


def batch(*others, number=12):
    """The others among good stacks that differ a little."""
    good = [
        replace(GOOD, name=f"good {i}", confidence=0.93 + 0.002 * (i % 3), grey_mean=128 + i % 4) for i in range(number)
    ]
    return rank([*good[:5], *others, *good[5:]])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"failed": "not a TIFF file"}, "failed: not a TIFF file"),
        ({"gone": True}, "its labels are gone"),
        ({"alike": False, "fit": 3.0, "unlike": ("its sharpness",)}, "unlike the model's own data (its sharpness)"),
        ({"alike": False, "fit": 3.0, "unlike": ("a",), "remedy": "inverted"},
         "unlike the model's own data (a); taken as inverted it would be like them: segment --fit auto"),
        ({"alike": False, "fit": 3.0, "unlike": ("a",), "remedy": "inverted", "remedied": True},
         "unlike the model's own data before it was remedied (a)"),
        ({"damaged": {"blank": 1, "torn": 2}, "damaged_slices": 3}, "damaged slices: 1 blank, 2 torn"),
        ({"disagreement": 0.5}, "nets disagree 2.5 times as much as on their own data"),
        ({"outside": 0.25}, "unlike the others: outside 25.0 % (others 0.0 %)"),
        ({"confidence": 0.8}, "unlike the others: confidence 0.800 (others 0.932)"),
        ({"grey_mean": 60.0}, "unlike the others: mean grey value 60 (others 129)"),
        ({"classes": {"cell": Amount("#ff0000", 10, 0.1, 0.05)}},
         "unlike the others: share of cell 5.0 % (others 50.0 %)"),
        ({"warnings": ("a", "b")}, "2 warnings"),
    ],
)  # fmt: skip
def test_what_brings_a_stack_to_the_top(change, reason):
    first, *others = batch(replace(GOOD, name="odd", **change))
    assert first.entry.name == "odd"
    assert first.look
    assert first.reasons == (reason,)
    assert not any(one.look or one.reasons for one in others)


def test_the_order():
    odd = [
        replace(GOOD, name="outside", outside=0.25),
        replace(GOOD, name="failed", failed="why"),
        replace(GOOD, name="unlike", alike=False, fit=5.0),
        replace(GOOD, name="gone", gone=True),
        replace(GOOD, name="damaged", damaged={"blank": 10}, damaged_slices=10),
    ]
    assert [one.entry.name for one in batch(*odd)[:5]] == ["failed", "gone", "damaged", "unlike", "outside"]


def test_texture_is_compared():
    looks = [{"power_5px": -1.5 + 0.02 * (i % 3)} for i in range(10)] + [{"power_5px": -0.5}]
    first, second, *_ = rank(replace(GOOD, name=str(i), looks=one) for i, one in enumerate(looks))
    assert (first.entry.name, first.reasons) == ("10", ("unlike the others: texture",))
    assert not second.look


def test_few_stacks_are_no_batch_to_be_odd_in():
    odd = replace(GOOD, name="odd", outside=0.9)
    assert not any(one.look for one in batch(odd, number=6))
    assert batch(odd, number=7)[0].look


def test_stacks_of_other_models_are_not_compared():
    odd = replace(GOOD, name="odd", model="n 1", confidence=0.5)
    assert not any(one.look for one in batch(odd))


def test_many_odd_stacks_do_not_hide_one_another():
    odd = [replace(GOOD, name=f"odd {i}", outside=0.1 * i) for i in range(1, 6)]
    assert {one.entry.name for one in batch(*odd) if one.look} == {one.name for one in odd}


def test_what_is_as_good_stays_in_order():
    assert [one.entry.name for one in rank(replace(GOOD, name=name) for name in "dbca")] == list("dbca")
    assert rank([]) == []
