"""Rows that would break a page, a table or a reader, if they were not shown as what they are: text."""

from __future__ import annotations

HOSTILE = {
    "script": "<script>window.hacked = 1; document.title = 'hacked'</script>",
    "end of script": "</script><script>window.hacked = 2</script>",
    "end of style": "</style><style>body { display: none }</style>",
    "end of pre": "</pre></details></li></ol><h1 id='hacked'>hacked</h1>",
    "attribute": '" onmouseover="window.hacked = 3" \' onfocus=\'window.hacked = 4',
    "image": "<img src=x onerror='window.hacked = 5'><svg onload='window.hacked = 6'>",
    "fetch": "<img src='https://example.com/a.png'><link rel=stylesheet href='https://example.com/a.css'>",
    "template": "{{ 7 * 7 }} {% for i in range(3) %}x{% endfor %} ${7*7}",
    "entity": "&lt;script&gt; &#60;b&#62; &amp;amp;",
    "control characters": "nul \x00 bell \x07 escape \x1b[31m delete \x7f c1 \x85 end",
    "direction": "access \u202e\u2066// admin only\u2069\u2066 begin \u2067x",
    "line separators": "one\u2028two\u2029three",
    "right to left": "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd hello",
    "stacked marks": "Z" + "\u0301\u0316\u0334" * 60 + " algo",
    "long word": "Donaudampfschiff" * 300,
    "wide characters": "\uff37\U0001f469\u200d\U0001f469\u200d\U0001f467" * 100,
    "long row": "<b>100k</b> " * 9000,
}


def hostile_rows() -> list[dict[str, str]]:
    """One row for each kind of text, in its prompt and in its completion."""
    return [{"instruction": f"{name}: {text}", "output": f"{name}: {text}"} for name, text in HOSTILE.items()]
