"""A path or fsspec URL -> its filesystem and the path there; S3 always with deadlines."""

import os
from typing import Any

import fsspec

from tinywave_core.extras import require


def open_url(url: str) -> tuple[Any, str]:
    """Filesystem and path; ImportError or ValueError where fsspec does not know the URL or an s3:// has no bucket, SurroundingError without
    the extra s3."""
    if not url.startswith(("s3://", "s3a://")):
        filesystem, path = fsspec.url_to_fs(url)
        return filesystem, str(path)
    if not url.partition("://")[2].strip("/"):
        raise ValueError("it names no bucket; expected s3://BUCKET/FOLDER")
    require("s3", url)
    from tinywave_core.storage.s3 import OPTIONS, S3

    # Credentials are botocore's matter. The endpoint is, too, but fsspec keeps filesystems by their arguments.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    return S3(endpoint_url=endpoint, **OPTIONS), str(S3._strip_protocol(url))
