"""s3fs with a deadline for every request, a bounded number of tries, and a clear error at the end.

s3fs and botocore alone wait for ever when a server takes a PUT and stays silent: their read timeout begins only after
`Expect: 100-continue` was answered. A write whose answer was lost may have landed: where it must be the first of its name
(If-None-Match) and is refused, what lies there is compared with what was written. See infra/decisions/0014-s3-deadlines.md.
"""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientPayloadError
from botocore.exceptions import ClientError, ConnectionError, HTTPClientError
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem
from s3fs.errors import translate_boto_error

from tinywave_core.errors import StoreError

PART_BYTES = 16 << 20  # of a multipart upload: what is sent again after a fault
# No cached listings: other runs write, too. Tries are counted here, not in botocore as well.
OPTIONS: dict[str, Any] = {
    "use_listings_cache": False,
    "max_concurrency": 4,
    "config_kwargs": {"connect_timeout": 5, "read_timeout": 60, "retries": {"total_max_attempts": 1}},
}
# The service works before it answers; AWS keeps the connection alive meanwhile.
SLOW = ("complete_multipart_upload", "copy_object", "upload_part_copy")
# Another try may do better: silence, a connection refused, reset or cut, an answer that is none.
FAULTS = (TimeoutError, ConnectionError, HTTPClientError, ResponseParserError, ClientPayloadError)
# Error codes with a status under 500 that pass.
PASSING = {
    "ConditionalRequestConflict",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentSHA256Mismatch",
}


@dataclass(frozen=True)
class Patience:
    """How long one request may take, and how often it is tried."""

    answer_s: float = 60.0
    slow_answer_s: float = 600.0
    bytes_per_s: float = 100_000.0  # 3 Mbit/s for the four parts that are on their way at a time
    tries: int = 5
    pause_s: float = (
        1.0  # before the second try, doubled before each further one; up to half of it is left out at random
    )

    def deadline_s(self, method: str, size: int) -> float:
        """Seconds for one try of a request with a body of `size` bytes."""
        return (self.slow_answer_s if method in SLOW else self.answer_s) + size / self.bytes_per_s

    def before_try(self, number: int) -> float:
        """Seconds to wait before try `number`, counted from 0."""
        return 0.0 if number == 0 else self.pause_s * 2 ** (number - 1) * random.uniform(0.5, 1.0)


class S3(S3FileSystem):
    """An S3 filesystem that never waits for ever."""

    patience = Patience()

    async def _call_s3(self, method: str, *arguments: Any, **options: Any) -> Any:
        """One operation of S3; StoreError when no try had an answer, OSError as s3fs has it for a refusal."""
        await self.set_session()
        client = await self.get_s3(options.get("Bucket"))
        call = getattr(client, method)
        options = self._get_s3_method_kwargs(call, *arguments, **options)
        size = len(options.get("Body") or b"")
        deadline_s, started = self.patience.deadline_s(method, size), time.monotonic()
        fault: Exception = TimeoutError()
        for number in range(self.patience.tries):
            await asyncio.sleep(self.patience.before_try(number))
            try:
                async with asyncio.timeout(deadline_s):
                    return await call(**options)
            except FAULTS as error:
                fault = error
            except ClientError as error:
                fault = error
                if not _passes(error):
                    return _refused(method, error, is_retry=number > 0, conditional="IfNoneMatch" in options)
        name = "/".join(str(options[key]) for key in ("Bucket", "Key") if options.get(key))
        what = f"no answer within {deadline_s:.3g} s" if isinstance(fault, TimeoutError) else str(fault).rstrip(". ")
        raise StoreError(
            f"s3://{name}: {method}{f' of {size:,} bytes' if size else ''} failed {self.patience.tries} times in "
            f"{time.monotonic() - started:.0f} s, at last with: {what}. Check the service at {client.meta.endpoint_url} "
            "(AWS_ENDPOINT_URL) and the network, and run again: finished work is kept"
        ) from fault

    call_s3 = sync_wrapper(_call_s3)

    async def _pipe_file(self, path: str, data: bytes, mode: str = "overwrite", **options: Any) -> None:
        try:
            await super()._pipe_file(path, data, chunksize=PART_BYTES, mode=mode, **options)
        except FileExistsError:  # perhaps by a try of ours: aiohttp, too, repeats a PUT whose connection ended
            if await self._cat_file(path) != data:
                raise

    async def _put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        # s3fs takes greater parts by itself only where 10,000 of 50 MiB are too few.
        if os.path.getsize(lpath) < 9_000 * PART_BYTES:
            options["chunksize"] = PART_BYTES
        await super()._put_file(lpath, rpath, **options)

    async def _abort_mpu(self, bucket: str, key: str, mpu: str) -> None:
        """Abort after a fault, which is what the caller hears of; an upload that stays is swept by `tinywave repair`."""
        with contextlib.suppress(OSError, StoreError):
            await super()._abort_mpu(bucket, key, mpu)

    # s3fs goes on where a body broke off, but only with one request at a time.

    async def _cat_file(self, path: str, **options: Any) -> bytes:
        with _body_of(path):
            return bytes(await super()._cat_file(path, **{**options, "max_concurrency": 1}))

    async def _get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        with _body_of(rpath):
            await super()._get_file(rpath, lpath, **{**options, "max_concurrency": 1})


def _passes(error: ClientError) -> bool:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return error.response["Error"].get("Code") in PASSING or status == 429 or (status >= 500 and status != 501)


def _refused(method: str, error: ClientError, *, is_retry: bool, conditional: bool) -> Any:
    """What a refusal means: of an upload's completion that was tried before (`is_retry`) it can mean that this is done."""
    code = error.response["Error"].get("Code")
    # Nobody else knows the upload. `Store.find` compares the sizes.
    completed = is_retry and method == "complete_multipart_upload" and code == "NoSuchUpload"
    if completed and not conditional:
        return {}
    if completed or (conditional and code in ("PreconditionFailed", "412")):  # s3fs wants more than each server says
        raise FileExistsError("an object of this name is there") from error
    raise translate_boto_error(error)


@contextlib.contextmanager
def _body_of(path: str) -> Iterator[None]:
    try:
        yield
    except FAULTS as error:
        raise StoreError(
            f"s3://{path} breaks off while it is read ({str(error) or type(error).__name__}), also when asked again: "
            "check the network and AWS_ENDPOINT_URL, and run again: finished work is kept"
        ) from error
