"""Python in the pages runs: the snippets of a page one after the other, in an empty folder.

A snippet that cannot (it needs a model, say, and has a test of its own) has `<!-- not run: why -->` above it.
"""

import pytest
from pages import PAGES, fences, name_of

SNIPPETS = {page: [fence for fence in fences(page) if fence.language == "python" and fence.run] for page in PAGES}
WITH_SNIPPETS = [page for page, snippets in SNIPPETS.items() if snippets]


@pytest.mark.parametrize("page", WITH_SNIPPETS, ids=name_of)
def test_the_snippets_of_a_page_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "snippet"}
    for snippet in SNIPPETS[page]:
        code = compile("\n" * (snippet.line - 1) + snippet.text, str(page), "exec")
        exec(code, names)


def test_there_are_snippets():
    assert len(WITH_SNIPPETS) >= 6
