import pytest
from conftest import PROGRAM

from monolab import problem
from monolab.errors import LabError

STAGES = PROGRAM[PROGRAM.index("stages:") : PROGRAM.index("window_seconds:")]
WINDOW = "window_seconds: {cpu: [0.01, 60], gpu: [0.01, 60]}\n"


def test_numbers_in_scientific_notation_are_numbers(lab_repo):
    program = PROGRAM.replace("explore: {cpu: 10, gpu: 10}", "explore: {cpu: 6e2, gpu: 1, seeds: 5}").replace("0.01\n", "1e-2\n")
    found = problem.load(lab_repo(**{"program.md": program.replace("cpu: [0.01, 60]", "cpu: [1e1, 6e1]")}))
    assert found.stages["explore"] == problem.Stage(cpu=600.0, gpu=1.0, seeds=5) and isinstance(found.stages["explore"].cpu, float)
    assert (found.smallest_effect, found.window_seconds["cpu"]) == (0.01, [10.0, 60.0])


def test_the_window_may_be_left_out(lab_repo):
    assert problem.load(lab_repo(**{"program.md": PROGRAM.replace(WINDOW, "")})).window_seconds.keys() == {"cpu", "gpu"}


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        (STAGES, "stages: []\n", "stages"),
        (STAGES, "stages: {}\n", "stages"),
        (STAGES, "stages: {explore: 60}\n", "stages.explore"),
        (STAGES, "stages: {explore: {cpu: 60}}\n", "stages.explore"),
        (STAGES, "stages: {explore: {cpu: 60, gpu: 60, tpu: 60}}\n", "stages.explore"),
        (STAGES, "stages: {explore: {cpu: soon, gpu: 60}}\n", "stages.explore.cpu"),
        (STAGES, "stages: {explore: {cpu: 60, gpu: 0}}\n", "stages.explore.gpu"),
        (STAGES, "stages: {explore: {cpu: -1, gpu: 60}}\n", "stages.explore.cpu"),
        (STAGES, "stages: {explore: {cpu: .inf, gpu: 60}}\n", "stages.explore.cpu"),
        (STAGES, "stages: {explore: {cpu: true, gpu: 60}}\n", "stages.explore.cpu"),
        (STAGES, "stages: {explore: {cpu: 60, gpu: 60, seeds: 2.5}}\n", "stages.explore.seeds"),
        (STAGES, "stages: {on: {cpu: 60, gpu: 60}}\n", "stages"),
        (WINDOW, "window_seconds: 60\n", "window_seconds"),
        (WINDOW, "window_seconds: {cpu: [1, 60]}\n", "window_seconds"),
        (WINDOW, "window_seconds: {cpu: [1, 60], gpu: 60}\n", "window_seconds.gpu"),
        (WINDOW, "window_seconds: {cpu: [1, 60], gpu: [60, 1]}\n", "window_seconds.gpu"),
        (WINDOW, "window_seconds: {cpu: [1, x], gpu: [1, 60]}\n", "window_seconds.cpu"),
        ("smallest_effect: 0.01", "smallest_effect: 0", "smallest_effect"),
        ("smallest_effect: 0.01", "smallest_effect: [1]", "smallest_effect"),
        ("memory_gb: 1", "memory_gb: much", "memory_gb"),
        ("scorer: [eval.py]", "scorer: eval.py", "scorer"),
        ("metric: score", "metric: 3", "metric"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_its_field(lab_repo, old, new, field):
    assert old in PROGRAM
    lab = lab_repo(**{"program.md": PROGRAM.replace(old, new)})
    with pytest.raises(LabError, match=rf"program\.md: .*\b{field}\b"):
        problem.load(lab)


def test_a_file_that_is_no_text_is_an_error_with_its_name(lab_repo):
    lab = lab_repo()
    lab.program.write_bytes(PROGRAM.encode() + b"\xff\xfe")
    with pytest.raises(LabError, match=r"program\.md cannot be read"):
        problem.load(lab)
