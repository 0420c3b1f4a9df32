import pytest
from conftest import PROGRAM

from monolab import problem
from monolab.errors import LabError

STAGES = PROGRAM[PROGRAM.index("stages:") : PROGRAM.index("window_seconds:")]
WINDOW = "window_seconds: {cpu: [0.01, 60], gpu: [0.01, 60]}\n"


def test_numbers_in_scientific_notation_are_numbers(lab_repo):
    program = PROGRAM.replace("explore: {cpu: 60, gpu: 60}", "explore: {cpu: 6e2, gpu: 1, seeds: 5}").replace("0.01\n", "1e-2\n")
    found = problem.load(lab_repo(**{"program.md": program.replace("cpu: [0.01, 60]", "cpu: [1e1, 6e1]")}))
    assert found.stages["explore"] == problem.Stage(cpu=600.0, gpu=1.0, seeds=5) and isinstance(found.stages["explore"].cpu, float)
    assert (found.smallest_effect, found.window_seconds["cpu"]) == (0.01, [10.0, 60.0])


def test_the_window_may_be_left_out(lab_repo):
    assert problem.load(lab_repo(**{"program.md": PROGRAM.replace(WINDOW, "")})).window_seconds.keys() == {"cpu", "gpu"}


def test_what_is_said_of_retries_and_validity_changes_only_that(lab_repo):
    stages = "stages: {explore: {cpu: 60, gpu: 60}, verify: {cpu: 60, gpu: 60, retries: {transient: 5}}}\n"
    more = "memory_gb: 1\nretries: {contaminated: 0, wait_seconds: 6e1}\nvalidity: {timed: {cpu: train}, swapped_mb: 500}"
    found = problem.load(lab_repo(**{"program.md": PROGRAM.replace(STAGES, stages).replace("memory_gb: 1", more)}))
    assert found.retries_at("explore") == problem.Retries(contaminated=0, wait_seconds=60.0) == found.retries_at("gone since")
    assert found.retries_at("verify") == problem.Retries(contaminated=0, transient=5)
    assert found.validity == problem.Validity(timed={"cpu": "train", "gpu": "train"}, swapped_mb=500.0)
    plain = problem.load(lab_repo("plain"))
    assert (plain.retries, plain.validity) == (problem.Retries(), problem.Validity())


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
        ("memory_gb: 1", "checkpoints_gb: -5", "checkpoints_gb"),
        ("scorer: [eval.py]", "scorer: eval.py", "scorer"),
        ("metric: score", "metric: 3", "metric"),
        ("memory_gb: 1", "retries: 3", "retries"),
        ("memory_gb: 1", "retries: {often: 3}", "retries"),
        ("memory_gb: 1", "retries: {transient: 1.5}", "retries.transient"),
        ("memory_gb: 1", "retries: {interrupted: -1}", "retries.interrupted"),
        ("memory_gb: 1", "retries: {wait_seconds: soon}", "retries.wait_seconds"),
        (STAGES, "stages: {explore: {cpu: 60, gpu: 60, retries: 2}}\n", "stages.explore.retries"),
        (STAGES, "stages: {explore: {cpu: 60, gpu: 60, retries: {transient: x}}}\n", "stages.explore.retries.transient"),
        ("memory_gb: 1", "validity: strict", "validity"),
        ("memory_gb: 1", "validity: {load: 0.5}", "validity"),
        ("memory_gb: 1", "validity: {timed: train}", "validity.timed"),
        ("memory_gb: 1", "validity: {timed: {cpu: always}}", "validity.timed"),
        ("memory_gb: 1", "validity: {timed: {cpu: [train]}}", "validity.timed"),
        ("memory_gb: 1", "validity: {others_cpu: 1}", "validity.others_cpu"),
        ("memory_gb: 1", "validity: {slower: -0.1}", "validity.slower"),
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


def test_the_sizes_of_the_search_default_to_the_papers(lab_repo):
    search = problem.load(lab_repo()).search
    assert (search.policy, search.pool, search.parents, search.references, search.cold, search.batch) == ("asi-arch", 50, 10, 4, 200, 50)
    assert search.judged is False


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("[1]", "not a mapping of batch, cold"),
        ("{poll: 3}", "not a mapping of batch, cold"),
        ("{policy: 3}", "`search.policy` is 3, not a name"),
        ("{judged: maybe}", "`search.judged` is 'maybe', not true or false"),
        ("{pool: 0}", "`search.pool` is 0, not a whole number of at least 1"),
        ("{cold: 1.5}", "`search.cold` is 1.5"),
    ],
)
def test_a_search_that_cannot_be_is_refused_by_name(lab_repo, given, says):
    lab = lab_repo(**{"program.md": PROGRAM.replace("memory_gb: 1\n", f"memory_gb: 1\nsearch: {given}\n")})
    with pytest.raises(LabError) as error:
        problem.load(lab)
    assert says in str(error.value)


def test_a_smaller_search(lab_repo):
    lab = lab_repo(**{"program.md": PROGRAM.replace("memory_gb: 1\n", "memory_gb: 1\nsearch: {policy: weighted, cold: 0, judged: true}\n")})
    search = problem.load(lab).search
    assert (search.policy, search.cold, search.judged, search.pool) == ("weighted", 0, True, 50)
