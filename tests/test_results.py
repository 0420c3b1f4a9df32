import json
import subprocess
import sys
from dataclasses import replace

import pytest

from monolab import receipts, results
from monolab.errors import LabError
from monolab.paths import Lab
from monolab.receipts import Receipt


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def make(number: int, **changes) -> Receipt:
    fields = {
        "run_id": f"20261121T0900{number:02}-rope-s{number}-{number:04x}", "idea": "rope", "stage": "explore", "seed": number, "label": "Q: a? H: b", "question": "a?",
        "hypothesis": "b", "mechanism": "", "predicted_effect": None, "credence": None, "kill_rule": "", "agent": "tester", "parent": "", "parent_idea": "baseline", "commit": "c" * 40, "head": "d" * 40,
        "code_sha": "e" * 40, "args": (), "flags": ("unscored",), "queued": "2026-11-21T09:00:00Z", "status": "ok", "reason": "", "metric": "score", "value": 0.5 + number,
        "metrics": {"score": 0.5 + number}, "started": "2026-11-21T09:00:01Z", "finished": "2026-11-21T09:00:02Z", "seconds": 1.0, "train_seconds": 0.8,
        "score_seconds": 0.2, "peak_gb": 0.1, "params": None, "eval_sha": "f" * 64, "data_sha": "1" * 64, "env_sha": "2" * 64, "checkpoint_sha": "3" * 64, "hardware": "cpu",
        "isolation": "none", "log_tail": "", "prev": "",
    }  # fmt: skip
    return Receipt(**fields | changes)


def finish(lab, number, **changes):
    return results.finish(lab, lambda prev: make(number, prev=prev, **changes))


def test_rows_come_back_as_written_and_a_failed_run_has_no_number(lab):
    finish(lab, 1)
    finish(lab, 2, status="oom", value=None, metrics={}, peak_gb=None)
    first, second = results.load(lab)
    assert (first.value, first.params, second.value, second.status) == (1.5, None, None, "oom")
    assert lab.results.read_text().splitlines()[2].split("\t")[8] == ""


def test_rebuilt_from_the_receipts_it_is_the_same_to_the_byte(lab):
    for number in range(1, 6):
        finish(lab, number)
    before = lab.results.read_bytes()
    lab.results.unlink()
    assert results.rebuild(lab) == 5
    assert lab.results.read_bytes() == before
    assert results.audit(lab) == []


def test_a_wrong_header_names_the_difference(lab):
    finish(lab, 1)
    lab.results.write_text(lab.results.read_text().replace("peak_gb", "memory", 1))
    with pytest.raises(LabError, match="no column 'peak_gb'; unknown column 'memory'"):
        results.load(lab)


def test_a_truncated_receipt_is_an_error_that_names_the_file(lab):
    path = lab.run(finish(lab, 1).run_id) / "receipt.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(LabError, match="receipt.json is damaged"):
        receipts.receipt(lab, make(1).run_id)


def test_an_edited_number_and_a_removed_row_show(lab):
    for number in range(1, 4):
        finish(lab, number)
    lines = lab.results.read_text().splitlines(keepends=True)
    lab.results.write_text("".join([*lines[:2], lines[2].replace("2.5", "0.1"), lines[3]]))
    assert any("differs from its receipt" in wrong for wrong in results.audit(lab))
    lab.results.write_text("".join([*lines[:2], lines[3]]))
    found = results.audit(lab)
    assert any("removed or edited" in wrong for wrong in found) and any("a receipt without a row" in wrong for wrong in found)


def test_killed_between_receipt_and_row_the_next_run_appends_it_first(lab):
    finish(lab, 1)
    lost = make(2, prev=results.sha(lab.results.read_text().splitlines()[-1]))
    receipts.write_receipt(lab, lost)
    (lab.runs / ".finishing").write_text(lost.run_id)
    finish(lab, 3)
    assert [row.seed for row in results.load(lab)] == [1, 2, 3]
    assert results.audit(lab) == []


def test_a_run_that_ends_while_the_table_is_damaged_keeps_its_receipt(lab):
    finish(lab, 1)
    with lab.results.open("a") as file:
        file.write("torn")
    with pytest.raises(LabError, match="in the middle of row"):
        finish(lab, 2)
    results.rebuild(lab)
    assert [row.seed for row in results.load(lab)] == [1, 2]
    assert (lab.runs / "results.before-rebuild.tsv").read_text().endswith("torn")


def test_a_receipt_is_written_once(lab):
    finish(lab, 1)
    with pytest.raises(LabError, match="has a receipt already"):
        finish(lab, 1)
    assert len(results.load(lab)) == 1


def test_many_writers_lose_and_tear_nothing(lab):
    code = (
        "import sys; sys.path.insert(0, sys.argv[3]); from pathlib import Path; from monolab.paths import Lab; from test_results import finish;"
        "[finish(Lab(Path(sys.argv[1])), i, run_id=f'20261121T090000-w{sys.argv[2]}-s{i}-0000') for i in range(25)]"
    )
    here = str(__file__).rsplit("/", 1)[0]
    writers = [subprocess.Popen([sys.executable, "-c", code, str(lab.root), str(number), here]) for number in range(8)]
    assert [writer.wait() for writer in writers] == [0] * 8
    assert len(results.load(lab)) == 200
    assert results.audit(lab) == []


def test_the_table_is_typed(lab):
    finish(lab, 1)
    table = results.table(lab)
    assert table["value"].to_list() == [1.5] and table["seed"].dtype.is_integer()


def test_a_run_is_found_by_a_part_of_its_id(lab):
    for number in (1, 2):
        receipt = finish(lab, number)
        receipts.write_atomic(lab.run(receipt.run_id) / "request.json", json.dumps({}))
    assert receipts.resolve(lab, "0002") == receipt.run_id
    with pytest.raises(LabError, match="2 runs match"):
        receipts.resolve(lab, "rope")
    with pytest.raises(LabError, match="no run matches"):
        receipts.resolve(lab, "nope")


def test_a_missing_value_is_not_a_zero():
    assert results.line(results.row(replace(make(1), value=None, status="crash"))).split("\t")[8:10] == ["", "crash"]


def test_rows_of_runs_that_ended_while_the_table_was_damaged_keep_their_order_when_the_clock_goes_back(lab):
    """Two that ended so, the second by a clock that is a day behind: what was rebuilt after the first stays byte for byte before the second."""
    for number in range(1, 3):
        finish(lab, number)
    days = iter(("2026-01-03T00:00:00Z", "2026-01-02T00:00:00Z"))
    for number in (3, 4):
        before = lab.results.read_bytes()
        lab.results.write_bytes(before[: len(before) - 20])
        with pytest.raises(LabError):
            finish(lab, number, finished=next(days))
        results.rebuild(lab)
        assert lab.results.read_bytes().startswith(before)
    finish(lab, 5)
    assert results.audit(lab) == [] and [row.run_id for row in results.load(lab)] == [make(number).run_id for number in range(1, 6)]
