"""Parts and channels that labels name and that came later than their recordings: an audio shard never changes, so they are told and not followed."""

from dataclasses import replace

from tinywave_core.audio.catalog import Catalog
from tinywave_core.audio.scan import Scan


def with_late_parts(catalog: Catalog, today: Scan) -> Scan:
    """The scan with the number of known recordings whose parts are named today, and were not when they were cut."""
    named = {digest for digest, label in today.labels_of_known.items() if label.segments or label.is_of_channels}
    if not named:
        return today
    shards = catalog.store.find_all(catalog.shard_ids(), "shard")
    files = [file for shard in shards if shard.manifest is not None for file in shard.manifest.params["files"]]
    return replace(
        today, late_parts=len(named - {file["sha256"] for file in files if "segments" in file or "channels" in file})
    )
