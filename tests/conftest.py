"""What several tests of the module need."""

import pytest


@pytest.fixture
def displayed(monkeypatch):
    """As in a notebook: the (forms, metadata) of all that is shown."""
    shown = []
    monkeypatch.setattr("lbdl.show.in_notebook", lambda: True)
    monkeypatch.setattr("lbdl.show.display", lambda forms, metadata, raw: shown.append((forms, metadata)))
    return shown
