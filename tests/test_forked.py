"""A forked program is what a new process would be, except that the libraries are loaded already."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from tests.support.forked import forked, stand_ins
from tests.support.launch import ONE_PROCESS, TORCHRUN, run, start

LOADED = "import sys; print('torch' in sys.modules, 'nuggets_trainer' in sys.modules)\n"


@pytest.fixture
def script(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "folder" / "script.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


def test_words_folder_and_environment_are_those_of_a_new_process(script, tmp_path):
    """Loaded libraries may have added to the environment, and the shell of the stand-in sets PWD."""
    text = "import json, os, sys\n"
    text += "seen = [sys.argv, sys.path, sys.executable, os.getcwd(), __name__, __file__, dict(os.environ)]\n"
    text += "print(json.dumps(seen)); print('told', file=sys.stderr)"
    path = script(text)
    seen = []
    for fresh in (True, False):
        output = run([sys.executable, path, "a b", "--c"], cwd=tmp_path, fresh=fresh, MARK="here")
        told, found = sorted(output.splitlines(), reverse=True)
        assert told == "told"
        seen.append(json.loads(found))
    new, fork = seen
    environments = new.pop(), fork.pop()
    assert new == fork and new[0] == [path, "a b", "--c"]
    differing = {name for name, value in environments[0].items() if environments[1].get(name) != value}
    assert differing <= {"PWD"} and environments[1]["MARK"] == "here"


@pytest.mark.parametrize(
    "words", [["-m", "json.tool", "{}"], ["-c", "import sys; print(open(sys.argv[1]).read())", "{}"]]
)
def test_modules_and_texts_run_as_by_python(words, tmp_path):
    (tmp_path / "file.json").write_text('{"a": [1]}')
    command = [sys.executable, *(word.format(tmp_path / "file.json") if word == "{}" else word for word in words)]
    assert run(command) == run(command, fresh=True)


def test_libraries_are_loaded_and_the_package_is_not(script):
    path = script(LOADED)
    assert run([sys.executable, path]) == "True False\n"
    assert run([sys.executable, path], fresh=True) == "False False\n"


def test_another_environment_of_the_libraries_is_a_new_process(script):
    assert run([sys.executable, script(LOADED)], HF_HUB_DISABLE_TELEMETRY="1") == "False False\n"


def test_launchers_fork_their_processes(script):
    text = LOADED + "import os; print(os.environ['WORLD_SIZE'] if 'WORLD_SIZE' in os.environ else 'alone')\n"
    assert run([*ONE_PROCESS, script(text)]).splitlines() == ["True False", "alone"]
    assert sorted(run([*TORCHRUN, "2", script(text)]).split()) == ["2", "2", "False", "False", "True", "True"]


@pytest.mark.parametrize(("text", "code"), [("raise SystemExit(7)", 7), ("1 / 0", 1), ("import os; os._exit(3)", 3)])
def test_the_exit_code_is_kept(text, code, script):
    process = start(forked([sys.executable, script(text)]))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code and ("ZeroDivisionError" in output) == ("/" in text)


def waiting(script, before: str = "") -> tuple[subprocess.Popen[str], psutil.Process]:
    text = f"import os, time\n{before}\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n"
    process = start(forked([sys.executable, script(text)]))
    assert process.stdout is not None
    return process, psutil.Process(int(process.stdout.readline()))


@pytest.mark.parametrize(
    ("before", "code"),
    [("", -signal.SIGTERM), ("import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))", 5)],
)
def test_a_signal_reaches_the_job(before, code, script):
    process, job = waiting(script, before)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == code and not job.is_running()


def test_a_job_ends_with_who_waits_for_it(script):
    process, job = waiting(script)
    process.kill()
    process.communicate(timeout=60)  # the job holds the other end of the pipe
    job.wait(60)
    assert not job.is_running()


def test_jobs_draw_other_random_numbers(script):
    text = "import random, numpy\nprint(random.random(), numpy.random.random())"
    assert len({number for _ in range(2) for number in run([sys.executable, script(text)]).split()}) == 4


def test_a_client_that_says_nothing_does_no_harm(script):
    """It was killed before it had sent its job."""
    programs = stand_ins()
    assert programs is not None
    for said in (b"", b'{"words": ['):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(programs.parent / "socket"))
            client.sendall(said)
    assert run([sys.executable, script(LOADED)]) == "True False\n"
