"""Workers render what this process renders, and nothing is lost where they cannot."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import sys

import psutil
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import Row
from nuggets_trainer.demo import demo_path
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.segment import Remark, stored_key
from nuggets_trainer.prompts.shared_prefix import SharedPrefix
from nuggets_trainer.scoring import render_workers, rendering
from nuggets_trainer.scoring.render_workers import RenderingTime, Unusable
from tests.support.launch import TORCHRUN, run, start
from tests.support.messages import ASSISTANT, USER, message
from tests.support.renderings import BREAKING, alpaca
from tests.support.rows import alpaca_rows

# It raises at one word, and writes rows that begin with another one differently before different anchors.
HARD = (
    "{% if 'odd' in messages[0].content %}{{ raise_exception('no') }}{% endif %}{% if 'sun' in messages[0].content %}"
    + BREAKING
    + "{% else %}{% for m in messages %}<|{{ m.role }}|> {{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}{% endif %}"
)


def rows() -> list[Row]:
    found = [alpaca(row) for row in alpaca_rows(30, seed=3)]
    for number in (4, 17):
        found[number] = Row("odd", "one")
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    return [*found, Row([message(USER, "a")], [message(ASSISTANT, "", tool_calls=[call])]), Row("red", "one")]


@pytest.fixture()
def split() -> SharedPrefix:
    tokenizer = AutoTokenizer.from_pretrained(demo_path("model"))
    tokenizer.chat_template = HARD
    return SharedPrefix(ChatTemplate(tokenizer), [alpaca(row) for row in alpaca_rows(3, seed=11)], 200)


@pytest.fixture()
def rendered_here(monkeypatch) -> list[Row]:
    """Rows that this process has rendered. Workers pay for few rows."""
    here: list[Row] = []

    def render(shared, row):
        here.append(row)
        return render_workers.render_row(shared, row)

    monkeypatch.setattr(rendering, "render_row", render)
    monkeypatch.setattr(rendering, "TIMED_ROWS", 4)
    monkeypatch.setattr(rendering, "BLOCK_ROWS", 5)
    monkeypatch.setattr(rendering, "count_workers", lambda: 2)
    monkeypatch.setattr(render_workers, "WORTHWHILE_SECONDS", -1.0)
    return here


def expected(split: SharedPrefix) -> dict[int, object]:
    return {number: render_workers.render_row(split, row) for number, row in reversed(list(enumerate(rows())))}


def render(split: SharedPrefix) -> tuple[dict[int, object], int]:
    """Render from the last row to the first; return what is found and how often progress was told."""
    told: list[None] = []
    numbers = list(range(len(rows())))[::-1]
    found, _ = rendering.render_share(
        split, numbers, lambda some: [rows()[i] for i in some], lambda: told.append(None)
    )
    return found, len(told)


def test_workers_render_what_this_process_renders(split, rendered_here):
    found, num_told = render(split)
    assert len(rendered_here) == 4  # every eighth of 32 rows; the workers have rendered the others
    assert found == expected(split) and list(found) == list(expected(split))
    assert num_told == len(found)
    reasons = [one.reason for one in found.values() if isinstance(one, Unusable)]
    assert set(reasons) == {"not_tokenizable", "not_shown"}
    assert found[4].cause == expected(split)[4].cause
    assert any(len(one.unshared) for one in found.values() if not isinstance(one, Unusable))


def cannot_be_sent(split, monkeypatch):
    split._template.own = lambda: None


def end_at_once(split, monkeypatch):
    monkeypatch.setattr(render_workers, "_SERVE", "import sys; sys.exit(1)")


def render_otherwise(split, monkeypatch):
    class Otherwise(render_workers.Workers):
        def render(self, blocks):
            for block in blocks:
                yield [Unusable("odd") for _ in block]

    monkeypatch.setattr(rendering, "Workers", Otherwise)


@pytest.mark.parametrize("fault", [cannot_be_sent, end_at_once, render_otherwise])
def test_this_process_goes_on_alone(fault, split, rendered_here, monkeypatch, caplog):
    wanted = expected(split)
    fault(split, monkeypatch)
    with caplog.at_level(logging.WARNING):
        found, num_told = render(split)
    assert found == wanted and num_told == len(wanted) == len(rendered_here)
    assert "This process goes on alone." in caplog.text


def test_a_worker_says_why_it_cannot_begin(split, rendered_here, monkeypatch, caplog):
    """A tokenizer's class of the user's script is not there."""
    of_script = pickle.dumps(Unusable("odd")).replace(Unusable.__module__.encode(), b"x" * len(Unusable.__module__))
    monkeypatch.setattr(render_workers, "_pickled", lambda shared: of_script)
    render(split)
    assert "A worker cannot read the tokenizer: ModuleNotFoundError" in caplog.text


def test_few_rows_are_rendered_here(split, rendered_here, monkeypatch):
    monkeypatch.setattr(render_workers, "WORTHWHILE_SECONDS", 10.0)
    render(split)
    assert len(rendered_here) == len(rows())


def test_ranks_share_the_processors(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 12)
    assert render_workers.count_workers() == render_workers.MOST_WORKERS == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert render_workers.count_workers() == 3


def test_the_forecast_counts_workers():
    time_taken = RenderingTime(num_rows=5000, seconds_per_row=0.001, num_workers=8)
    assert time_taken.seconds() == pytest.approx(5)
    assert time_taken.seconds(200) == pytest.approx(3 + 1000 / 8)
    assert RenderingTime(5000, 0.001, num_workers=1).seconds(200) == pytest.approx(1000)


def said(answer: str) -> dict[str, object]:
    return {"messages": [message(USER, "red?"), message(ASSISTANT, answer)]}


THOUGHTS = [said(f"<think>\n{text}\n</think>\n\ntwo") for text in ("sun and rain", "day", "night and day and night")]
CANDIDATES = [*THOUGHTS, said("one two"), said("three"), said("north and south")]
TWO_RANKS = """
import json, logging, sys
from importlib.resources import files
from accelerate import PartialState
from datasets import Dataset
from nuggets_trainer import NuggetsConfig, load_scorer, score_pool
assert PartialState(cpu=True).num_processes == 2
logger = logging.getLogger("nuggets_trainer.scoring.rendering")
logger.setLevel(logging.INFO)
logger.propagate = False
logger.addHandler(logging.StreamHandler())
rows, anchors = (Dataset.from_list(json.loads(text)) for text in sys.argv[1:3])
model, tokenizer = load_scorer("nuggets-demo/model")
tokenizer.chat_template = files("trl").joinpath("chat_templates", "qwen3.jinja").read_text()
config = NuggetsConfig(top_k=2, schedule="exact")
score_pool(model, tokenizer, rows, anchors, config=config, score_dir=sys.argv[3])
"""


def test_two_processes_give_rows_the_keys_of_one(tmp_path):
    """Each rank has remarks on its own rows alone; a row's key in the store depends on them."""
    (tmp_path / "script.py").write_text(TWO_RANKS)
    given = [json.dumps(CANDIDATES), json.dumps([said("cat"), said("dog bird")]), str(tmp_path / "scores")]
    output = run([*TORCHRUN, "2", str(tmp_path / "script.py"), *given])
    assert output.count("3 of 6 candidates are shown to the model as training shows them") == 1
    stored: set[str | None] = set()
    for path in tmp_path.glob("scores/*/parts/*.parquet"):
        stored.update(pq.read_table(path)["candidate"].to_pylist())
    keys = Pool(Dataset.from_list(CANDIDATES)).read_keys()[0]
    anew = [stored_key(key, [Remark.AS_TRAINED]) for key in keys[:3]]
    assert stored == {None, *anew, *keys[3:]}
    assert not stored & set(keys[:3])


SCRIPT = """
import sys
print("the script runs", flush=True)
from transformers import AutoTokenizer
from nuggets_trainer.data.row import Row
from nuggets_trainer.demo import demo_path
from nuggets_trainer.prompts.plain import PlainTemplate
from nuggets_trainer.prompts.shared_prefix import SharedPrefix
from nuggets_trainer.scoring.render_workers import Workers
rows = [Row("red?", "one two")] * 50
split = SharedPrefix(PlainTemplate(AutoTokenizer.from_pretrained(demo_path("model"))), rows[:2])
with Workers(split, 2) as workers:
    for number, answer in enumerate(workers.render(rows for _ in range(10**9))):
        if number == 3:
            print("rendering", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_script_that_they_do_not_repeat(number, tmp_path):
    """The script has no guard around its work: `multiprocessing` would run it again in each worker."""
    (tmp_path / "script.py").write_text(SCRIPT)
    process = start([sys.executable, str(tmp_path / "script.py")])
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    assert lines == ["the script runs\n", "rendering\n"]
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and "the script runs" not in output
    assert output.count("Traceback") == (number == signal.SIGINT)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
