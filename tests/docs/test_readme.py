"""The README's result is that of the committed run."""

import json

from tiny import ROOT

from slsr.labels.regularizers import committed_names
from slsr.reporting.result import HEADLINE
from slsr.reporting.run_report import ranking_table


def committed(name):
    return json.loads((ROOT / "metrics" / f"{name}.json").read_text())


def test_the_table_is_that_of_the_committed_run():
    methods = committed("floors") | {name: committed(name) for name in committed_names()}
    assert ranking_table(methods, "single_query", HEADLINE) in (ROOT / "README.md").read_text(encoding="utf-8")
