"""The whole pipeline with source and store on S3 gives what it gives locally, and runs nothing twice."""

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Finished
from tests.core.storage.test_faults import live_with_lagging_listings, lose_what_a_listing_still_shows
from tests.fixtures.tiny import CLIPS, Computed, digests, run_tiny, summaries, tiny_config
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import DamagedArtifactError, StoreBusyError, StoreError
from tinywave_core.stages.ingestion.corpus import scan
from tinywave_core.steps.base import Outputs, compute
from tinywave_core.storage.care.census import take_census
from tinywave_core.storage.care.collect import collect, find_garbage
from tinywave_core.storage.care.forget import find_traces, forget
from tinywave_core.storage.care.repair import repair
from tinywave_core.storage.care.verify import verify
from tinywave_core.storage.lease import Pace, take
from tinywave_core.storage.records import seal
from tinywave_core.storage.s3 import S3, Patience
from tinywave_core.storage.store import Store


@pytest.fixture(scope="module")
def remote(s3: Any, tiny_source: Path) -> tuple[PipelineConfig, Outputs, Computed]:
    for clip in CLIPS:
        s3.upload_file(str(tiny_source / clip), "tiny-speech", f"in/{clip}")
    config = tiny_config("s3://tiny-speech/in", "s3://tiny-store/runs/one")
    return (config, *run_tiny(config))


def test_bytes_and_numbers_are_those_of_the_local_run(finished: Finished, remote: tuple):
    store = Store(remote[0].root)
    assert digests(store) == digests(finished.store)
    assert summaries(store) == summaries(finished.store)


def test_a_second_run_computes_nothing(remote: tuple):
    config, outputs, _ = remote
    S3.clear_instance_cache()
    again, computed = run_tiny(config)
    assert not computed.ran
    assert again == outputs


def test_a_lost_object_is_computed_again_with_the_same_bytes(finished: Finished, s3: Any, remote: tuple):
    config, outputs, _ = remote
    s3.delete_object(Bucket="tiny-store", Key=f"runs/one/{outputs['student'].id}/model/model.safetensors")
    _, computed = run_tiny(config)
    assert computed.parts() == ["distillation/student"]
    assert digests(Store(config.root)) == digests(finished.store)


def copy_objects(s3: Any, prefix: str) -> Store:
    """A copy of the first run's store under another prefix."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket="tiny-store", Prefix="runs/one/"):
        for found in page["Contents"]:
            key = found["Key"].replace("runs/one", prefix)
            s3.copy_object(Bucket="tiny-store", Key=key, CopySource={"Bucket": "tiny-store", "Key": found["Key"]})
    return Store(f"s3://tiny-store/{prefix}")


def test_a_store_on_s3_is_verified_and_repaired_and_old_uploads_are_aborted(finished: Finished, s3: Any, remote: tuple):
    _, outputs, computed = remote
    store = copy_objects(s3, "care/repair")
    assert verify(take_census(store)) == []
    outputs["scores"].path("")  # a copy on this machine hides nothing
    entry = outputs["scores"].manifest.files[0]
    key = f"care/repair/{outputs['scores'].id}/{entry.name}"
    s3.put_object(Bucket="tiny-store", Key=key, Body=bytes(entry.bytes))
    s3.create_multipart_upload(Bucket="tiny-store", Key="care/repair/export/abandoned")
    s3.create_multipart_upload(Bucket="tiny-store", Key="elsewhere")
    census = take_census(store)
    findings = verify(census)
    assert [(f.where, f.what) for f in findings] == [(outputs["scores"].id, "wrong digest")]
    repair(census, findings, now=time.time() + 2 * 86_400)
    assert [upload["Key"] for upload in s3.list_multipart_uploads(Bucket="tiny-store")["Uploads"]] == ["elsewhere"]
    assert not store.find(outputs["scores"].id).complete
    (step,) = [step for step in computed.steps if step.part == "scores"]
    assert compute(replace(step, store=store)) == outputs["scores"]
    assert digests(store) == digests(finished.store)


def test_copies_of_another_store_at_the_same_url_are_not_taken_for_this_ones(s3: Any, remote: tuple):
    store = copy_objects(s3, "same/url")
    scores = remote[1]["scores"]
    entry = next(entry for entry in scores.manifest.files if entry.name == "cloze.parquet")
    assert store.find(scores.id).path(entry.name).read_bytes()  # as the emptied bucket's store left it here
    body = bytes(entry.bytes)
    changed = entry.model_copy(update={"sha256": hashlib.sha256(body).hexdigest()})
    files = [changed if each.name == entry.name else each for each in scores.manifest.files]
    manifest = scores.manifest.model_copy(update={"files": files})
    for name, data in (("cloze.parquet", body), ("manifest.json", seal(manifest))):
        s3.put_object(Bucket="tiny-store", Key=f"same/url/{scores.id}/{name}", Body=data)
    assert Store(store.url).find(scores.id).path(entry.name).read_bytes() == body


def test_gc_and_forget_on_s3_remove_what_they_say(s3: Any, remote: tuple):
    store = copy_objects(s3, "care/forget")
    garbage = find_garbage(take_census(store), keep=0, grace_s=0, now=time.time() + 10)
    collect(take_census(store), garbage)
    assert not store.artifact_ids("generation") and verify(take_census(store)) == []
    heard = find_traces(take_census(store), CLIPS[3])
    forget(take_census(store), heard)
    left = {found["Key"] for found in s3.list_objects_v2(Bucket="tiny-store", Prefix="care/forget/")["Contents"]}
    assert not [key for key in left for folder in heard.artifacts if folder.id in key]
    assert scan(remote[0], store).forgotten == 1


def test_a_changed_object_is_found_on_read(s3: Any, remote: tuple):
    _, outputs, _ = remote
    key = f"runs/one/{outputs['samples'].id}/samples.json"
    data = bytearray(s3.get_object(Bucket="tiny-store", Key=key)["Body"].read())
    data[10] ^= 1
    s3.put_object(Bucket="tiny-store", Key=key, Body=bytes(data))
    with pytest.raises(DamagedArtifactError, match=r"samples\.json is damaged"):
        Store(remote[0].root).find(outputs["samples"].id).path("samples.json")


def test_a_second_writer_is_refused_and_the_first_record_stays(s3: Any):
    one, two = Store("s3://tiny-store/logs"), Store("s3://tiny-store/logs")
    assert one.log("runs").append({"n": 1}) == 1
    with pytest.raises(FileExistsError):
        two.create("runs/000001.json", b"{}")
    assert two.log("runs").append({"n": 2}) == 2
    assert [record["n"] for record in one.log("runs").records()] == [1, 2]


def test_a_run_that_was_taken_for_dead_writes_nothing_on_s3_either(s3: Any):
    """The first run does not beat; the watcher's clock is moved by its waiting."""
    url, waited = "s3://tiny-store/leases", list[float]()
    first = take(Store(url), "the first run", Pace())
    with pytest.raises(StoreBusyError, match="in use by the first run"):
        take(Store(url), "the second run", Pace(now=lambda: sum(waited), sleep=lambda _: first.beat()))
    second = take(Store(url), "the second run", Pace(20, 60, now=lambda: sum(waited), sleep=waited.append))
    assert (second.number, sum(waited)) == (2, 60)
    late, now = Store(url), Store(url)
    late.inherit(first.number)
    now.inherit(second.number)
    with pytest.raises(StoreError, match=r"taken over by the second run"):
        late.log("runs").append({"n": 1})
    assert now.log("runs").append({"n": 2}) == 1
    first.end()
    second.end()
    with Store(url).lock("the third run"):
        assert Store(url).lease_number == 3


def test_what_a_lagging_listing_says_on_s3_decides_nothing(s3: Any):
    live_with_lagging_listings(Store("s3://tiny-store/lagging/hides"))
    lose_what_a_listing_still_shows(Store("s3://tiny-store/lagging/shows"))


def test_another_clients_writes_are_seen_at_once(s3: Any):
    store = Store("s3://tiny-store/fresh")
    assert not store.exists("reports/a.html")
    s3.put_object(Bucket="tiny-store", Key="fresh/reports/a.html", Body=b"one")
    assert store.exists("reports/a.html")
    assert store.read("reports/a.html") == b"one"
    s3.put_object(Bucket="tiny-store", Key="fresh/reports/a.html", Body=b"three")
    assert store.read("reports/a.html") == b"three"
    assert store.size_of("reports/a.html") == 5


def test_a_bucket_that_is_not_there_is_said_in_one_line_and_not_made(s3: Any):
    with pytest.raises(StoreError, match=r"s3://no-such-bucket/store cannot be written .*pass another --root"):
        Store("s3://no-such-bucket/store")
    assert "no-such-bucket" not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}


def test_a_service_that_cannot_be_reached_is_said_in_one_line(s3: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(S3, "patience", Patience(tries=2, pause_s=0.01))
    with pytest.raises(
        StoreError, match=r"s3://tiny-store/x/store.json: .* 2 times .*Could not connect.*AWS_ENDPOINT_URL"
    ):
        Store("s3://tiny-store/x")


def test_many_artifacts_are_found_with_one_listing_per_stage(remote: tuple, monkeypatch: pytest.MonkeyPatch):
    """And as they are found one by one: whole, cut, without a manifest, never there."""
    config = remote[0]
    store = Store(config.root)
    ids = [*store.artifact_ids(), "ingestion/" + "0" * 32]
    one_by_one = [store.find(i, "some") for i in ids]
    listings: list[str] = []
    real = store.filesystem.find
    monkeypatch.setattr(
        store.filesystem, "find", lambda path, **options: listings.append(path) or real(path, **options)
    )
    monkeypatch.setattr(store, "find", None)
    together = store.find_all(ids, "some")
    assert [(a, a.manifest) for a in together] == [(a, a.manifest) for a in one_by_one]
    assert len(listings) == len({i.split("/")[0] for i in ids})
    assert not together[-1].complete and together[-1].part == "some"
