"""Where a trainer's seconds go, as status and metrics tell it."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from atoll.cli.status_view import trainer_text
from atoll.node.metrics import Metrics
from atoll.node.spent import SAMPLE_S, WINDOW_S, Spent, Stopwatch, Utilisation


def test_every_second_is_of_one_kind() -> None:
    watch = Stopwatch()
    begun_s = watch.spent.at_s
    for kind in ("merge_s", "steps_s", "steps_s", "wait_s"):
        watch.lap(kind)
    spent = asdict(watch.spent)
    at_s = spent.pop("at_s")
    assert sum(spent.values()) == pytest.approx(at_s - begun_s)
    assert spent["steps_s"] > 0 == spent["save_s"]


def test_a_later_trainer_goes_on_where_the_last_one_ended() -> None:
    first = Spent(at_s=10.0).until(14.0, "steps_s").until(15.0, "wait_s")
    second = Spent(at_s=20.0).until(22.0, "steps_s")
    assert second.after(first) == Spent(steps_s=6.0, wait_s=1.0, at_s=22.0)
    assert first.until(3.0, "steps_s") == first, "a clock that goes back"


def test_utilisation_is_of_the_last_minutes() -> None:
    utilisation, spent = Utilisation(), Spent()
    assert utilisation.share(spent) is None
    for _ in range(int(WINDOW_S / SAMPLE_S)):
        spent = spent.until(spent.at_s + SAMPLE_S, "wait_s")
        assert utilisation.share(spent) == 0.0
    spent = spent.until(spent.at_s + WINDOW_S / 4, "steps_s")
    assert utilisation.share(spent) == pytest.approx(0.25, abs=0.01)
    for _ in range(int(WINDOW_S / SAMPLE_S)):
        spent = spent.until(spent.at_s + SAMPLE_S, "steps_s")
        utilisation.share(spent)
    assert utilisation.share(spent) == 1.0
    assert len(utilisation._samples) <= WINDOW_S / SAMPLE_S + 1


def test_status_and_metrics_tell_it() -> None:
    became = {"included": 7, "missed": 2}
    spent = asdict(Spent(steps_s=9.0, wait_s=1.0, at_s=12345.0))
    training = {"loss": None, "utilisation": 0.9, "spent": spent, "contributions": became}
    assert trainer_text({"training": training}) == (
        "trains 90.0% of the time; 2 of 9 contributions missed their round"
    )
    assert trainer_text({"training": None}) == ""
    told = {
        (sample.name, *sample.labels.values()): sample.value
        for metric in Metrics(lambda: {"training": training}).collect()
        for sample in metric.samples
    }
    assert told["atoll_training_utilisation",] == 0.9
    assert told["atoll_training_seconds_total", "steps"] == 9.0
    assert told["atoll_contributions_total", "missed"] == 2
    assert 12345.0 not in told.values()
