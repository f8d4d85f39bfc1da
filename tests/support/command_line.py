"""What the tests of the command line share."""

from __future__ import annotations

import json

DEMO = ["--model_name_or_path", "nuggets-demo/model"]


def json_result(capsys) -> dict:
    """Return the one JSON object that a command printed."""
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1  # one JSON object and nothing else
    return json.loads(lines[0])
