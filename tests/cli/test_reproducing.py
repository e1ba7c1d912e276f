"""Tables of methods: whole runs of seconds, and what the real ones consist of."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest

from innerloop.cli import main, reproducing
from innerloop.cli.cost import Cost, CostFile, read_cost
from innerloop.config import METHODS
from innerloop.data.source import Spec
from innerloop.evaluate import EvaluationResult
from innerloop.method import Method
from innerloop.recipes import RECIPES, recipe
from innerloop.recipes.omniglot_quick import BORROWED, MANY_WAYS, QUICK
from innerloop.recipes.studies import STUDIES, TASKS, TWENTY_WAY, Cell, Reported, Study

SMALL = shlex.split(
    "--train.workers 1 --train.iterations 4 --train.validate-every 2 --train.validate-tasks 2 "
    "--train.log-every 2 --train.device cpu --train.engine eager --train.meta-batch 2 "
    "--model.filters 4 --data.queries 1 --evaluate.tasks 8 --test.way 5"
)


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Study:
    """Two methods and one that borrows weights, on glyphs: one entry makes a table."""
    cells = (
        Cell("anil", "glyphs-5w1s/anil"),
        Cell("nil", "glyphs-5w1s/anil"),
        Cell("scratch", "glyphs-5w1s/scratch"),
    )
    known = {"anil": {"5w1s": Reported("96.2", "nobody")}}
    made = Study("Glyphs", "for a test", cells, minutes=5.0, published=known)
    monkeypatch.setitem(STUDIES, "glyphs", {"cpu": made})
    return made


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "table.csv").open(encoding="utf-8", newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def test_a_table_in_parts(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["reproduce", "glyphs", "--out", str(out), *SMALL]
    # A run that was stopped after two of four steps.
    run = out / "glyphs-5w1s-anil"
    begun = ["--train.iterations", "2", "--train.minutes", "5"]
    assert main(["train", "glyphs-5w1s/anil", "--run", str(run), *SMALL, *begun]) == 0
    path = run / "cost.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "ended": False}))
    config = run / "config.yaml"
    _, _, text = config.read_text().partition("\n")  # without the digest in its first line
    config.write_text(text.replace("iterations: 2", "iterations: 4"))
    assert main([*words, "--table"]) == 0
    found = rows(out)
    assert found["anil"]["status"] == "stopped after 2 steps"
    assert found["scratch"]["status"] == "not run yet"
    capsys.readouterr()
    assert main([*words, "--methods", "anil", "--minutes", "2.5"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "train.minutes is 5.0 there and 2.5 now; go on with --train.minutes 5.0" in said
    assert "--out" in said

    assert main([*words, "--methods", "anil"]) == 0, "it goes on"
    found = rows(out)
    assert found["anil"]["status"] == "done" and found["anil"]["outer_steps"] == "4"
    assert int(found["anil"]["peak_memory"]) > 2**24
    assert float(found["anil"]["seconds"]) > 0
    assert found["nil"]["status"] == "not tested yet", "its run is there, its test is not"
    text = (out / "table.md").read_text(encoding="utf-8")
    assert "96.2 (nobody)" in text and "## 5-way 1-shot" in text
    made = text.splitlines()[2].partition("`: for a test")[0]
    assert made.startswith("`innerloop reproduce glyphs --budget cpu --data.queries 1")
    assert "--train.iterations 4" in made and "--minutes" not in made
    assert "| scratch | not run yet |" in text

    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert main([*words, "--methods", "anil", "nil"]) == 0, "what is done is kept"
    after = {p: p.stat().st_mtime_ns for p in before}
    assert {p.name for p in before if before[p] != after[p]} == {"table.md", "table.csv"}
    results = {
        name: EvaluationResult.from_json(run / f"{name}-queries.json")
        for name in ("anil-15", "anil-1", "nil-15", "nil-1")
    }
    assert results["anil-15"].digest == results["nil-15"].digest, "the same test tasks"
    assert results["anil-15"].digest != results["anil-1"].digest
    assert results["nil-15"].method["method"] == "nil" and results["nil-15"].steps == 0
    assert rows(out)["nil"]["outer_steps"] == "4", "the cost is that of the weights"
    assert main(["reproduce", "glyphs", "--out", str(out), "--table"]) == 0
    again = (out / "table.md").read_text(encoding="utf-8")
    assert made in again, "the settings are those of the runs"
    assert not [p for p in out.rglob("*") if p.name.startswith(".")]


def test_one_bad_cell_does_not_stop_the_others(
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tried = []

    def run(console: object, planned: reproducing.Planned) -> None:
        tried.append(planned.cell.method)
        if planned.cell.method == "anil":
            raise ValueError("the query loss is not finite")

    monkeypatch.setattr(reproducing, "run", run)
    assert main(["reproduce", "glyphs", "--out", str(tmp_path / "out"), *SMALL]) == 2
    assert tried == ["anil", "nil", "scratch"]
    shown = capsys.readouterr()
    assert "glyphs-5w1s/anil: the query loss is not finite" in " ".join(shown.out.split())
    assert "1 of 3 cells failed: glyphs-5w1s-anil" in " ".join(shown.err.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["omniglott"], "did you mean omniglot?"),
        (["omniglot", "--methods", "mamml"], "did you mean maml?"),
        (["omniglot", "--method", "protonet"], "rows are chosen with --methods"),
        (["omniglot", "--minutes", "-1"], "train.minutes: expected a number above 0"),
        (["omniglot", "--train.l", "1"], "train.l: unknown key"),
        (["omniglot", "--table", "--out", "typo"], "typo holds no run of this table"),
        (["omniglot"], "no Omniglot in"),
    ],
)
def test_mistakes_leave_nothing_behind(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INNERLOOP_DATA", str(tmp_path / "nowhere"))
    assert main(["reproduce", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_the_omniglot_tables_are_complete() -> None:
    """Every method that classifies, and every cell a recipe that exists."""
    cpu, paper = STUDIES["omniglot"]["cpu"], STUDIES["omniglot"]["paper"]
    assert {cell.method for cell in cpu.cells} == set(METHODS)
    assert set(QUICK) | set(BORROWED) == set(METHODS)
    assert set(MANY_WAYS) <= set(QUICK)
    few = [cell for cell in cpu.cells if cell.recipe.startswith("omniglot-5w1s-quick/")]
    assert len(few) == len(QUICK) + len(BORROWED)
    many = [cell.method for cell in cpu.cells if cell not in few]
    assert tuple(many) == TWENTY_WAY
    assert len(paper.cells) == 9 * len(TASKS)
    for cell in (*cpu.cells, *paper.cells):
        assert cell.recipe in RECIPES
        assert recipe(cell.recipe).evaluate.tasks >= 600
    networks = {recipe(cell.recipe).model for cell in cpu.cells}
    assert len(networks) == 1, "the same network for every method"
    tests = {(recipe(c.recipe).test, recipe(c.recipe).data.rotate) for c in few}
    assert len(tests) == 1, "the same test tasks for every method"


@pytest.mark.parametrize("kind", [kind for kind, quick in QUICK.items() if quick.recorded])
def test_what_is_said_to_be_recorded_can_be(kind: str) -> None:
    config = recipe(f"omniglot-5w1s-quick/{kind}").override([("model.filters", "2")])
    assert config.train.engine == "traced"
    method = config.build_method(Spec("classification", (1, 28, 28), 5), 20, "cpu")
    assert isinstance(method, Method)
    method.use("traced")


def test_the_cost_of_a_run(tmp_path: Path) -> None:
    assert read_cost(tmp_path) == Cost()
    watch = CostFile(tmp_path)
    watch({"event": "train", "step": 3, "seconds": 1.5})
    assert not list(tmp_path.iterdir())
    watch({"event": "checkpoint", "step": 3})
    first = read_cost(tmp_path)
    assert (first.step, first.seconds, first.ended) == (3, 1.5, False)
    assert first.peak_memory is not None
    path = tmp_path / "cost.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "peak_memory": 2**60}))
    watch({"event": "end", "step": 5, "seconds": 2.5})
    last = read_cost(tmp_path)
    assert (last.step, last.seconds, last.ended) == (5, 2.5, True)
    assert last.peak_memory == 2**60, "the most of all parts of a run"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"cost\.json is damaged"):
        read_cost(tmp_path)


def test_cite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", str(tmp_path / "missing")]) == 2
    assert "holds no run" in " ".join(capsys.readouterr().err.split())
    run = tmp_path / "run"
    words = ["--train.iterations", "0", "--train.device", "cpu", "--train.validate-tasks", "2"]
    assert main(["train", "sine-5shot/reptile", "--run", str(run), *words]) == 0
    capsys.readouterr()
    assert main(["cite", str(run)]) == 0
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line.startswith("@")] == [
        "@misc{nichol2018reptile,",
        "@inproceedings{finn2017maml,",
    ]
