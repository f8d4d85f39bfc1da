"""An inspection as HTML for a notebook."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from nuggets_trainer.inspection.facts import SPAN_KINDS, PoolFacts
from nuggets_trainer.inspection.sentences import REMARKS, length_cells, length_lines, row_heading, summary
from nuggets_trainer.inspection.text import LENGTH_HEAD, shortened
from nuggets_trainer.wording import counted, visible

# Colours that can be read on light and dark notebooks: the text keeps the notebook's colour. Jupyter puts the text of
# tables to the right, on stripes, by rules that are as specific as these; hence `!important`.
TEMPLATE = """<div class="nuggets-inspection">
<style>
.nuggets-inspection { font-family: system-ui, sans-serif; line-height: 1.45; max-width: 60rem; }
.nuggets-inspection pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 0.85rem/1.5 ui-monospace, monospace;
  margin: 0.2rem 0 0.9rem; padding: 0.5rem; border: 1px solid rgba(128,128,128,.35); border-radius: 4px; }
.nuggets-inspection table { border-collapse: collapse; margin: 0.4rem 0; }
.nuggets-inspection td, .nuggets-inspection th { padding: 0.1rem 0.8rem 0.1rem 0;
  text-align: left !important; vertical-align: top; background: none; }
.nuggets-inspection tr { background: none !important; }
.nuggets-inspection .number { text-align: right !important; font-variant-numeric: tabular-nums; }
.nuggets-inspection .faint { opacity: .65; }
.nuggets-inspection .problem { border-left: 3px solid #d33; padding-left: .5rem; }
.nuggets-inspection mark { color: inherit; padding: .1em 0; border-radius: 2px; background: none; }
.nuggets-inspection mark.context { opacity: .55; }
.nuggets-inspection mark.candidate { background: rgba(59,130,246,.18); }
.nuggets-inspection mark.answer { background: rgba(192,38,211,.18); }
.nuggets-inspection mark.anchor { background: rgba(245,158,11,.2); }
.nuggets-inspection mark.scored { background: rgba(34,197,94,.35); font-weight: 600; }
</style>
<p><strong>{{ facts.name }}: {{ num_rows }}</strong></p>
<table>
{% for label, lines in summary %}<tr{% if label == "problem" %} class="problem"{% endif %}><th>{{ label }}</th>
<td>{% for line in lines %}{{ line | code }}{% if not loop.last %}<br>{% endif %}{% endfor %}</td></tr>
{% endfor %}</table>
<table>
<tr><th>column</th><th>type</th><th>read as</th><th>first value</th></tr>
{% for column in facts.columns %}<tr><td>{{ column.name }}</td><td>{{ column.kind }}</td>
<td>{{ column.read_as or "not read" }}</td><td class="faint">{{ column.example }}</td></tr>
{% endfor %}</table>
{% if facts.lengths %}<table>
<tr><th>{{ facts.length_unit }}</th>{% for head in heads %}<th class="number">{{ head }}</th>{% endfor %}</tr>
{% for cells in lengths %}<tr>{% for cell in cells %}
<td{% if not loop.first %} class="number"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% for line in length_lines %}<div class="faint">{{ line }}</div>
{% endfor %}{% endif %}
{% if rows %}<p>{% for kind, meaning in legend %}<mark class="{{ kind }}">{{ kind }}</mark>
<span class="faint">{{ meaning }}</span>{% if not loop.last %}<br>{% endif %}{% endfor %}</p>{% endif %}
{% for row in rows %}<div><strong>{{ row.heading }}</strong>{% for remark in row.remarks %}
<span class="faint">{{ remark }}</span>{% endfor %}
<pre>{% for kind, text in row.spans %}<mark class="{{ kind }}" title="{{ kind }}">{{ text }}</mark>{% endfor %}\
{{ row.record }}</pre></div>
{% endfor %}</div>"""


def as_html(facts: PoolFacts) -> str:
    """Write an inspection as one element of a page; all texts are escaped."""
    from jinja2 import Environment

    rows = []
    kinds: set[str] = set()
    for view in facts.rows:
        spans = []
        for span in view.spans:
            spans.append((span.kind, visible(shortened(span.text))))
            kinds.add(span.kind)
        rows.append(
            {
                "heading": row_heading(view, facts.length_unit),
                "remarks": [REMARKS[remark] for remark in view.remarks],
                "spans": spans,
                "record": visible(shortened(view.record)),
            }
        )
    environment = Environment(autoescape=True)
    environment.filters["code"] = _with_code
    template = environment.from_string(TEMPLATE)
    return template.render(
        facts=facts,
        num_rows=counted(facts.num_rows, "row"),
        summary=summary(facts),
        heads=LENGTH_HEAD[1:],
        lengths=map(length_cells, facts.lengths),
        length_lines=length_lines(facts),
        legend=[(kind, meaning) for kind, meaning in SPAN_KINDS.items() if kind in kinds],
        rows=rows,
    )


def _with_code(line: str) -> Markup:
    """Escape a line, and show what stands between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(visible(line)))))
