"""A lab for each test that asks for one, where this machine permits it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from netlab import Host, Lab, LabMaker, Link, why_not


@pytest.fixture(scope="session")
def permitted() -> None:
    if reason := why_not():
        pytest.skip(f"netlab: {reason}")


@pytest.fixture
def lab(permitted: None) -> Iterator[LabMaker]:
    """Makes a lab out of hosts (names will do) and a link for all; it ends with the test."""
    with ExitStack() as labs:

        def make(*hosts: Host | str, link: Link = Link()) -> Lab:
            named = [host if isinstance(host, Host) else Host(host) for host in hosts]
            return labs.enter_context(Lab(*named, link=link))

        yield make
