"""Metrics: what is counted, in memory that workers share, and its text, read back by prometheus_client's parsers."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from maas_rt.service._errors import Kind
from maas_rt.service._exposition import OPEN, PLAIN, content_type, render
from maas_rt.service._metrics import SECONDS, Metrics, Page, Phases

MS = 1_000_000


def samples(metrics: Metrics, kind: str = PLAIN) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = render(metrics, kind).decode()
    families = list((parse_open if kind == OPEN else parse_plain)(text))
    found = {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}
    assert len(found) == sum(len(family.samples) for family in families)  # none stands there twice
    return found


def value(found: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def observe(metrics: Metrics, model: str = "m", version: str = "1", kind: Kind | None = None, ms: float = 3) -> None:
    series = metrics.series(model, version)
    series.begin()
    ns = round(ms * MS)
    series.end(kind, Phases(request=ns, queue=0, compute=ns // 2, serialise=1))
    series.ran(4, 1000)


@pytest.mark.parametrize("kind", [PLAIN, OPEN])
def test_what_a_version_counts(kind: str) -> None:
    metrics = Metrics(now=5 * 10**8)
    observe(metrics)
    observe(metrics, ms=20_000)
    observe(metrics, kind=Kind.DEADLINE)
    metrics.series("m", "1").begin()
    found = samples(metrics, kind)
    one = {"model": "m", "version": "1"}
    assert value(found, "maas_rt_requests_total", **one) == 3
    assert value(found, "maas_rt_errors_total", **one, kind="deadline") == 1
    assert value(found, "maas_rt_errors_total", **one, kind="internal") == 0  # there before the first: a rate sees it
    assert value(found, "maas_rt_inferences_total", **one) == 12
    assert value(found, "maas_rt_requests_in_flight", **one) == 1
    assert value(found, "maas_rt_request_seconds_count", **one) == 3
    assert value(found, "maas_rt_request_seconds_sum", **one) == pytest.approx(20.006)
    assert value(found, "maas_rt_request_seconds_bucket", **one, le="0.0025") == 0
    assert value(found, "maas_rt_request_seconds_bucket", **one, le="0.005") == 2
    assert value(found, "maas_rt_request_seconds_bucket", **one, le="10.0") == 2
    assert value(found, "maas_rt_request_seconds_bucket", **one, le="+Inf") == 3
    assert value(found, "maas_rt_queue_seconds_count", **one) == 3
    assert value(found, "maas_rt_parse_seconds_count", **one) == 0
    assert value(found, "maas_rt_batch_seconds_sum", **one) == pytest.approx(3e-6)
    assert value(found, "maas_rt_batch_size_bucket", **one, le="4.0") == 3
    assert value(found, "maas_rt_batch_size_sum", **one) == 12
    assert value(found, "maas_rt_worker_start_time_seconds", worker="0") == 0.5
    resident = value(found, "maas_rt_worker_resident_memory_bytes", worker="0")
    assert resident is not None and resident > 1 << 20


def test_a_bound_is_within_its_bucket() -> None:
    metrics = Metrics()
    for bound in SECONDS:
        observe(metrics, ms=bound * 1000)
    found = samples(metrics)
    for number, bound in enumerate(SECONDS, 1):
        assert value(found, "maas_rt_request_seconds_bucket", model="m", version="1", le=repr(bound)) == number


def test_requests_that_come_to_no_version_make_no_series() -> None:
    metrics = Metrics()
    before = set(samples(metrics))
    metrics.server.refuse(Kind.NOT_FOUND)
    metrics.server.refuse(Kind.UNAUTHENTICATED)
    found = samples(metrics)
    assert set(found) == before and not any("model" in dict(labels) for _, labels in found)
    assert value(found, "maas_rt_refused_total", kind="not_found") == 1


@pytest.mark.parametrize("kind", [PLAIN, OPEN])
@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\\nb", "é{}", 'x",version="2"} 1', "a\\", "\udcff", " "])
def test_names_are_escaped(kind: str, name: str) -> None:
    metrics = Metrics()
    observe(metrics, name)
    shown = name.encode("utf-8", "replace").decode()
    assert value(samples(metrics, kind), "maas_rt_requests_total", model=shown, version="1") == 1


def test_a_version_that_is_gone_takes_its_series_with_it_and_leaves_room() -> None:
    metrics = Metrics(Page(models=2))
    for version in range(1000):
        observe(metrics, version=str(version))
        late = metrics.series("m", str(version))
        metrics.forget("m", str(version))
        late.begin()  # whoever still holds it counts for nobody else
    observe(metrics, "other")
    observe(metrics, "gone")
    metrics.forget("m", "never")
    metrics.keep({("other", "1")})
    assert list(metrics.collect()) == [("other", "1")]
    assert metrics.collect()["other", "1"].requests == 1 and metrics.collect()["other", "1"].in_flight == 0


def test_more_versions_than_there_is_room_for(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(Page(models=2))
    for number in range(5):
        observe(metrics, f"m{number}")
    observe(metrics, "n" * 400)
    assert list(metrics.collect()) == [("m0", "1"), ("m1", "1")]
    assert len(caplog.records) == 1 and "is not counted" in caplog.text


def test_threads_lose_no_count() -> None:
    metrics = Metrics()
    threads = [threading.Thread(target=lambda: [observe(metrics) for _ in range(500)]) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    counts = metrics.collect()["m", "1"]
    assert (counts.requests, counts.rows, counts.in_flight) == (2000, 8000, 0)


def work(page: Page, worker: int) -> None:
    metrics = Metrics(page, worker)
    for _ in range(100 * (worker + 1)):
        observe(metrics)
    observe(metrics, f"only{worker}")
    metrics.series("m", "1").begin()  # in flight when it dies
    os._exit(0)


def test_workers_are_added_up_and_one_that_dies_lowers_no_counter() -> None:
    page = Page(workers=3, models=8)
    fork = multiprocessing.get_context("fork")

    def run(*workers: int) -> None:
        processes = [fork.Process(target=work, args=(page, worker)) for worker in workers]
        for each in processes:
            each.start()
        for each in processes:
            each.join(30)
            assert each.exitcode == 0

    run(1, 2)
    metrics = Metrics(page, 0)
    observe(metrics)
    assert metrics.collect()["m", "1"].requests == 200 + 300 + 1
    assert metrics.collect()["m", "1"].in_flight == 2
    assert {"m", "only1", "only2"} == {model for model, _ in metrics.collect()}
    successor = Metrics(page, 1)  # the dead one's successor
    assert metrics.collect()["m", "1"].in_flight == 1
    observe(successor)
    assert metrics.collect()["m", "1"].requests == 502
    found = samples(metrics)
    assert value(found, "maas_rt_requests_total", model="only1", version="1") == 1
    assert value(found, "maas_rt_worker_start_time_seconds", worker="2") == 0
    assert value(found, "maas_rt_worker_resident_memory_bytes", worker="2") is None  # its process is gone


def test_a_page_is_handed_on_by_its_descriptor() -> None:
    page = Page(workers=2, models=4)
    observe(Metrics(page, 0))
    other = Page(workers=2, models=4, descriptor=os.dup(page.descriptor))
    observe(Metrics(other, 1))
    assert Metrics(other, 1).collect()["m", "1"].requests == 2


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, PLAIN),
        ("*/*", PLAIN),
        ("text/plain;version=0.0.4", PLAIN),
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;q=0.5",
            OPEN,
        ),
    ],
)
def test_the_form_is_what_is_asked_for(accept: str | None, kind: str) -> None:
    assert content_type(accept) == kind
    assert render(Metrics(), kind).endswith(b"# EOF\n") is (kind == OPEN)


def test_the_memory_is_taken_when_it_is_used(tmp_path: Path) -> None:
    page = Page(workers=64, models=512)
    status = os.fstat(page.descriptor)
    assert status.st_size > 16 << 20 and status.st_blocks * 512 < 1 << 20
