"""The index of results.tsv and verdicts.jsonl: it says what the files say, whatever is done to them or to it."""

import random
from dataclasses import replace

import pytest
from test_results import finish, make

from monolab import index, receipts, results, verdicts
from monolab.errors import LabError
from monolab.paths import BASELINE, Lab


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def look(idea: str, runs: tuple[str, ...], decision: str = "drop", test: int = 0, anchor_runs: tuple[str, ...] = (), stage: str = "explore"):
    """A look at an arm, with what the index keeps of it; the rest is filler."""
    gate = verdicts.Gate(
        decision=decision, why="", anchor=BASELINE, through=(), effect=-0.1, low=-0.2, high=0.0, error=0.01, p=0.01, allowed=0.02, level=0.02,
        test=test, screen=None, seeds=(), chance=0.5, wants=(), runs=anchor_runs,
    )  # fmt: skip
    return verdicts.Verdict(
        time="2026-11-21T09:00:00Z", idea=idea, stage=stage, code_sha="e" * 40, args=(), metric="score", question="a?", hypothesis="b", predicted=None,
        credence=None, kill_rule="", agent="tester", against=BASELINE, verdict="inconclusive", why="", effect=-0.1, low=-0.2, high=0.0, seeds=(0,),
        floor=0.1, mean=1.0, against_mean=1.1, failures={}, confounds=(), ratios={}, lines=(1, 1), exploratory="", runs=runs, against_runs=anchor_runs,
        gate=gate,
    )  # fmt: skip


def agrees(lab: Lab) -> None:
    """What the index finds is what going through all rows finds."""
    whole, rows = results.load(lab), results.view(lab)
    assert list(rows) == whole and len(rows) == len(whole)
    assert rows.failed == sum(row.status != "ok" for row in whole)
    assert [rows[place] for place in range(-len(whole), len(whole))] == whole * 2
    for idea in {row.idea for row in whole} | {"nothing"}:
        assert rows.of(idea) == results.of(whole, idea) == [row for row in whole if row.idea == idea]
        assert rows.of(idea, "verify") == [row for row in whole if (row.idea, row.stage) == (idea, "verify")]
    newest = {(row.idea, row.label): (row.run_id, row.time) for row in whole}
    assert rows.labels() == [(*key, *value) for key, value in newest.items()]
    for flag in ("retry", "unscored", "nothing"):
        assert rows.flagged(flag) == results.flagged(whole, flag)


def test_it_finds_what_the_table_holds_as_the_table_grows(lab):
    agrees(lab)
    for number in range(12):
        kinds = {
            "idea": ("rope", "baseline", "ropé")[number % 3],
            "stage": ("explore", "verify")[number % 2],
            "status": ("ok", "crash")[number % 4 == 3],
        }
        finish(lab, number, flags=("unscored", "retry") if number % 5 == 0 else (), label=f"Q: naïve {number}? H: ja", **kinds)
        agrees(lab)


@pytest.mark.parametrize("damage", ["deleted", "no database", "cut", "of an older version"])
def test_it_is_made_anew_when_it_is_lost_or_damaged(lab, damage):
    for number in range(1, 6):
        finish(lab, number)
    (path,) = (lab.runs / ".index").glob("*.sqlite")
    with index.reading(lab) as entries:
        entries.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if damage == "of an older version":
            entries.execute("PRAGMA user_version = 1")
            entries.execute("DROP TABLE row_flags")
    if damage == "deleted":
        path.unlink()
    elif damage == "no database":
        path.write_bytes(b"something else entirely" * 1000)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    agrees(lab)
    finish(lab, 6)
    agrees(lab)
    assert results.audit(lab) == []


def test_where_it_cannot_be_written_it_is_done_without(lab):
    for number in range(1, 4):
        finish(lab, number)
    for path in (lab.runs / ".index").iterdir():
        path.unlink()
    (lab.runs / ".index").rmdir()
    (lab.runs / ".index").write_text("in its way")
    agrees(lab)
    finish(lab, 4)
    agrees(lab)
    assert results.audit(lab) == []


def test_a_changed_table_is_read_anew(lab):
    for number in range(1, 6):
        finish(lab, number)
    before = results.view(lab).of("rope")
    text = lab.results.read_text()
    lab.results.write_text(text.replace("\t2.5\t", "\t0.1\t"))
    assert [row.value for row in results.view(lab).of("rope")] == [1.5, 0.1, 3.5, 4.5, 5.5] != [row.value for row in before]
    lab.results.write_text(text.replace("\t2.5\t", "\tbetter\t"))
    with pytest.raises(LabError, match="line 3"):
        results.view(lab)
    lab.results.write_text(text)
    assert results.view(lab).of("rope") == before


@pytest.mark.parametrize("asked_first", [False, True])
def test_a_table_that_was_rolled_back_is_noticed_at_the_next_append(lab, asked_first):
    for number in range(1, 4):
        finish(lab, number)
    lab.results.write_text("".join(lab.results.read_text().splitlines(keepends=True)[:3]))
    if asked_first:
        assert len(results.view(lab)) == 2  # who only reads makes new entries: that must not hide it
    with pytest.raises(LabError, match="rolled back"):
        finish(lab, 4)
    assert results.rebuild(lab) == 4
    finish(lab, 5)
    agrees(lab)


def test_an_edit_that_leaves_no_mark_on_the_file_is_found_when_the_bytes_are_read(lab, monkeypatch):
    """As of two writes within a tick of the file system's clock."""
    for number in range(1, 4):
        finish(lab, number)
    results.require_whole(lab)
    same = index.identity(lab.results)
    monkeypatch.setattr(index, "identity", lambda path: same)
    lab.results.write_text(lab.results.read_text().replace("\t2.5\t", "\t9.9.\t"))
    with pytest.raises(LabError, match="line 3"):
        results.require_whole(lab)
    lab.results.write_text(lab.results.read_text().replace("\t9.9.\t", "\t99.5\t"))
    results.require_whole(lab)
    assert [row.value for row in results.view(lab).of("rope")] == [1.5, 99.5, 3.5]


def ledger(found) -> tuple[int, list[int]]:
    """Against the definition, spelled out: how many ideas were tested, and how many had been when each of the kept ones was kept first."""
    tested, first = 0, {}
    for one in found:
        tested = max(tested, one.gate.test)
        if one.kept:
            first.setdefault(one.gate.test, tested)
    return tested, list(first.values())


def test_looks_are_found_as_going_through_them_finds_them(lab):
    chance = random.Random(3)
    for number in range(8):
        finish(lab, number, idea=f"idea-{number % 3}")
    runs = [f"run-{number}" for number in range(12)]
    for number in range(60):
        idea = chance.choice(("one", "two", "control-null"))
        decision = chance.choice(("keep", "simpler", "more", "promising", "drop"))
        some = tuple(chance.sample(runs, chance.randint(1, 3)))
        verdicts.record(lab, look(idea, some, decision, chance.randint(0, 5), tuple(chance.sample(runs, 2)), chance.choice(("explore", "verify"))))
        if number == 30:
            (lab.runs / ".index" / "records.sqlite").unlink()
    whole, past = verdicts.records(lab), verdicts.looks(lab)
    arms = verdicts.by_arm(whole)
    assert list(past) == whole and past[-1] == whole[-1] and len(past) == 60
    assert past.arms() == arms and past.arms(last=2) == arms[-2:]
    for stage in ("explore", "verify"):
        assert past.arms(stage, control=False) == [one for one in arms if one.stage == stage and not one.control]
        assert past.arms(stage, kept=True) == [one for one in arms if one.stage == stage and one.kept]
        assert past.arms(stage, of=runs[:2]) == [one for one in arms if one.stage == stage and set(one.runs) & set(runs[:2])]
        assert verdicts.ledger(past, stage) == ledger(one for one in whole if one.stage == stage and not one.control)
    for idea in ("one", "two", "three"):
        assert past.newest(idea) == next((one for one in reversed(whole) if one.idea == idea), None)
    assert past.failed() == {idea for idea in ("one", "two") if past.newest(idea).failed}
    assert past.sharing(runs[:2]) == [one for one in whole if set(one.runs) & set(runs[:2])]
    assert past.still_open() == [one.runs[-1] for one in arms if not one.final]
    assert past.unsettled() == [one for one in arms if not one.final]


def test_looks_at_one_arm_are_those_that_share_a_run_with_the_last_of_them(lab):
    """Against the definition, spelled out."""
    chance = random.Random(4)
    found = [look(chance.choice("ab"), tuple(chance.sample("123456", chance.randint(1, 3))), test=number) for number in range(200)]
    arms: list[verdicts.Verdict] = []
    for one in found:
        place = next((place for place, last in enumerate(arms) if last.idea == one.idea and set(last.runs) & set(one.runs)), len(arms))
        arms[place : place + 1] = [one]
    assert verdicts.by_arm(found) == arms


@pytest.mark.parametrize("lost", ["nothing", "the index", "the entries of the rows", "the entries of the looks", "a place for it"])
def test_rows_that_no_look_has_seen_are_to_be_settled(lab, lost):
    made = [finish(lab, number, idea="baseline" if number == 2 else "rope") for number in range(1, 6)]
    verdicts.record(lab, look("rope", (made[0].run_id, made[3].run_id), "more"))
    if lost == "the index":
        (lab.runs / ".index" / "records.sqlite").unlink()
    elif lost == "the entries of the rows":
        lab.results.write_text(lab.results.read_text())
    elif lost == "a place for it":
        (lab.runs / ".index").rename(lab.runs / "elsewhere")
        (lab.runs / ".index").write_text("in its way")
    elif lost == "the entries of the looks":
        path = lab.runs / "verdicts.jsonl"
        path.write_text(path.read_text())
    rows = results.view(lab)
    assert [row.run_id for row in rows.to_settle(verdicts.LOOKS, ())] == [made[2].run_id, made[4].run_id]
    assert [row.run_id for row in rows.to_settle(verdicts.LOOKS, [made[3].run_id])] == [one.run_id for one in made[2:]]


def test_a_writer_that_is_killed_between_row_and_entry_costs_nothing_but_time(lab, monkeypatch):
    finish(lab, 1)
    monkeypatch.setattr(index, "extend", lambda *args: None)
    finish(lab, 2)
    monkeypatch.undo()
    agrees(lab)
    finish(lab, 3)
    agrees(lab)


def test_a_receipt_without_its_row_is_missed_though_nobody_touched_the_table(lab):
    finish(lab, 1)
    finish(lab, 2)
    results.require_sound(lab)
    lost = replace(make(3), prev="0" * 64)
    receipts.write_receipt(lab, lost)
    with pytest.raises(LabError, match=f"lacks the rows of 1 run.*{lost.run_id}"):
        results.require_whole(lab)
