"""The tree of everything that was tried: the lab's own through real runs, and one in the schema that ASI-Arch published."""

import json
import math
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from test_gate import NOISY, offset
from test_lab import call

from monolab import asi_arch, backlog, lineage, lineage_page, results
from monolab.errors import LabError
from monolab.paths import Lab


def element(index: int, parent: int | None, score: float | None, **more) -> dict:
    return {"index": index, "parent": parent, "score": score, "name": f"delta_net_{index}", "time": "2025-06-01 10:00:00"} | more


ELEMENTS = [
    element(1, None, 0.5, motivation="the seed", program="a = 1\n"),
    element(
        2,
        1,
        0.6,
        motivation="gates <b>forget</b>",
        program="a = 2\n",
        result={"train": "step,loss\n100,5.5\n200,4.25\n", "test": "arc,piqa\n0.25,x\n"},
    ),
    element(3, 1, None, motivation="diverged", analysis="the loss is nan"),
    element(4, 2, 0.58, program="a = 2\nb = 3\n"),
    element(5, 2, 0.71, cognition="gates help recall"),
]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    path = tmp_path / "tree.json"
    path.write_text(json.dumps(ELEMENTS))
    return path


def test_every_run_of_a_lab_stands_under_the_code_it_builds_on(lab_repo, pueue_daemon, wait_until, tmp_path):
    lab: Lab = lab_repo(**{"train.py": NOISY})
    call(lab.root, "data")
    call(lab.root, "baseline")
    offset(lab, "first", -0.2)
    call(lab.root, "queue", "first", "Q: does it help? H: expect -0.2 score, 80%")
    wait_until(lambda: not backlog.unfinished(lab))
    offset(lab, "second", -0.3, parent="first", before=-0.2)
    offset(lab, "beside", 0.3)
    call(lab.root, "queue", "second", "Q: more? H: expect -0.1 score, 60%")
    call(lab.root, "queue", "beside", "Q: the other way? H: expect -0.2 score, 5%")
    wait_until(lambda: not backlog.unfinished(lab))
    tree = lineage.of_lab(lab)
    assert {one.key: one.parent for one in tree.candidates} == {"baseline": "", "first": "baseline", "second": "first", "beside": "baseline"}
    assert sorted(run for one in tree.candidates for run in one.runs) == sorted(row.run_id for row in results.load(lab))
    assert [one.key for one in tree.ancestors("second")] == ["first", "baseline"]
    assert [one.key for one in tree.siblings("first")] == ["beside"]
    assert tree.get("first").decision == "keep" and tree.get("first").effect == pytest.approx(-0.2, abs=0.02)
    assert tree.get(tree.get("second").runs[0]).key == "second"

    shown = call(lab.root, "lineage", "tree").stdout
    assert "├─ first" in shown and "│  └─ second" in shown and "└─ beside" in shown
    compared = call(lab.root, "lineage", "diff", "baseline", "second").stdout
    assert "-    offset: float = 0.0" in compared and "+    offset: float = -0.3" in compared and "score" in compared
    told = json.loads(call(lab.root, "lineage", "show", "first", "--json").stdout)
    assert [one["key"] for one in told["siblings"]] == ["beside"] and [one["key"] for one in told["children"]] == ["second"]
    out = tmp_path / "tree.png"
    call(lab.root, "lineage", "tree", "--png", str(out))
    assert out.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(LabError, match="nothing in the tree is called") as error:
        tree.get("secnd")
    assert "second" in error.value.hint


def test_a_published_tree_is_read_whole(published):
    tree = asi_arch.read(published)
    assert [(one.key, one.parent, one.value) for one in tree.candidates] == [
        ("1-delta-net-1", "", 0.5),
        ("2-delta-net-2", "1-delta-net-1", 0.6),
        ("3-delta-net-3", "1-delta-net-1", None),
        ("4-delta-net-4", "2-delta-net-2", 0.58),
        ("5-delta-net-5", "2-delta-net-2", 0.71),
    ]
    assert tree.get("2-delta-net-2").scores == {"train.step": 200.0, "train.loss": 4.25, "test.arc": 0.25}
    assert tree.get("3-delta-net-3").status == "crash" and tree.get("3-delta-net-3").notes == {"analysis": "the loss is nan"}
    assert lineage.best_so_far(tree) == [0.5, 0.6, 0.6, 0.6, 0.71]
    assert [one.score for one in tree.scored()] == [0.5, 0.6, None, 0.58, 0.71]


def test_nested_and_wrapped_forms_and_a_loss_that_is_not_a_number(tmp_path):
    nested = tmp_path / "nested.json"
    nested.write_text(json.dumps({"nodes": [{"index": 0, "score": 1.0, "children": [{"index": 7, "score": math.nan}, {"index": 9, "score": 2.0}]}]}))
    tree = asi_arch.read(nested)
    assert [(one.key, one.parent, one.value) for one in tree.candidates] == [("0", "", 1.0), ("7", "0", None), ("9", "0", 2.0)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("not json", "cannot be read as JSON"),
        ("[]", "holds no elements"),
        ('{"a": 1}', "holds no elements"),
        ('[{"score": 1}]', "element 0 has no whole-number `index`"),
        ("[3]", "element 0 has no whole-number `index`"),
        ('[{"index": 1, "score": "good"}]', "the score of element 1 is 'good'"),
        ('[{"index": 1, "score": 1, "parent": 4}]', "the parent 4 of element 1 is not in the file"),
        ('[{"index": 1, "score": 1}, {"index": 1, "score": 1}]', "two elements have the index 1"),
        ('[{"index": 1, "score": 1, "parent": 2}, {"index": 2, "score": 1, "parent": 1}]', "is its own ancestor"),
    ],
)
def test_a_file_that_is_no_such_tree_is_refused_by_name(tmp_path, content, says):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(LabError, match=says):
        asi_arch.read(path)


def test_an_imported_tree_is_browsed_like_the_labs_own(lab_repo, published):
    lab = lab_repo()
    assert "5 candidates, 4 with a score" in call(lab.root, "import", "asi-arch", str(published)).stdout
    assert lineage.load(lab, "asi-arch") == asi_arch.read(published)
    shown = call(lab.root, "lineage", "tree", "--tree", "asi-arch", "--best", "1").stdout.splitlines()
    assert [line.split("score")[0].strip(" └─") for line in shown[:3]] == ["1-delta-net-1", "2-delta-net-2", "5-delta-net-5"] and "(2 more" in shown[
        3
    ]
    assert "+b = 3" in call(lab.root, "lineage", "diff", "2-delta-net-2", "4-delta-net-4", "--tree", "asi-arch").stdout
    with pytest.raises(LabError, match="no imported tree") as error:
        lineage.load(lab, "other")
    assert "asi-arch" in error.value.hint


def browser() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no chromium on this machine")
    return found


def rendered(page: Path, fragment: str, home: Path) -> str:
    """The page's document after its scripts have run, in a real browser."""
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
    ]
    command = [
        browser(),
        *flags,
        "--disable-sync",
        f"--user-data-dir={home}",
        "--virtual-time-budget=4000",
        "--dump-dom",
        f"{page.as_uri()}#{fragment}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | {"HOME": str(home)})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_draws_the_tree_in_a_real_browser_and_takes_texts_as_data(lab_repo, published, tmp_path):
    browser()
    lab, out = lab_repo(), tmp_path / "tree.html"
    elements = [*ELEMENTS, element(6, 5, 0.4, motivation="</script><img src=x onerror=document.title='taken'>")]
    published.write_text(json.dumps(elements))
    lineage_page.page(lab, asi_arch.read(published), out)
    dom = rendered(out, "6-delta-net-6", tmp_path / "home")
    assert dom.count('class="point') == 6 and dom.count('class="edge') == 5
    assert dom.count('class="edge on"') == 3  # the line of what is picked, down to its root
    assert "<h2>6-delta-net-6</h2>" in dom and "&lt;img src=x" in dom and "<img" not in dom and "<title>asi-arch, score</title>" in dom
    assert "6 candidates, 5 measured" in dom


def test_a_tree_as_large_as_the_published_one_is_drawn(lab_repo, tmp_path):
    browser()
    elements = [element(0, None, 0.5)] + [element(place, (place * 7919) % place, 0.5 + (place % 97) / 1000) for place in range(1, 1773)]
    path, out = tmp_path / "large.json", tmp_path / "large.html"
    path.write_text(json.dumps(elements))
    tree = asi_arch.read(path)
    lineage_page.page(lab_repo(), tree, out)
    assert rendered(out, "", tmp_path / "home").count('class="point') == 1773
    assert lineage_page.picture(tree, tmp_path / "large.png").stat().st_size > 10_000
