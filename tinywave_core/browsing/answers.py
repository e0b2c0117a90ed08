"""Bytes as an HTTP answer, whole or the range that was asked for (RFC 9110, section 14): a player needs ranges to know its length and to seek."""

import re

from starlette.responses import Response

_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


def ranged(data: bytes, media_type: str, asked: str | None) -> Response:
    """The answer to a request with this `Range`; what is no single range of bytes is answered with all of it."""
    headers = {"accept-ranges": "bytes"}
    found = _RANGE.fullmatch((asked or "").strip())
    if found is None or found[0] == "bytes=-":
        return Response(data, media_type=media_type, headers=headers)
    first, last = _bounds(found[1], found[2], len(data))
    if first > last:
        return Response(status_code=416, headers={**headers, "content-range": f"bytes */{len(data)}"})
    headers["content-range"] = f"bytes {first}-{last}/{len(data)}"
    return Response(data[first : last + 1], 206, headers, media_type)


def _bounds(start: str, end: str, size: int) -> tuple[int, int]:
    """First and last byte; the first beyond the last where there are none."""
    if not start:
        return (max(0, size - int(end)), size - 1) if int(end) else (1, 0)
    return int(start), min(int(end), size - 1) if end else size - 1
