"""Errors for clients, the same over HTTP and WebSocket."""

from collections.abc import Iterable
from reprlib import Repr
from typing import Any

from tinywave_core.errors import TinyWaveError


class RequestError(TinyWaveError):
    """A request that is wrong or comes at a bad time; `status` is HTTP's, `code` is for programs, `param` the field that is meant."""

    def __init__(
        self, message: str, code: str = "invalid_request", status: int = 400, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.status, self.param = code, status, param

    @classmethod
    def of_field(cls, param: str, why: str, code: str = "invalid_settings") -> "RequestError":
        """A field that is wrong, named first."""
        return cls(f"{param}: {why}", code, param=param)


def busy(waiting: int) -> RequestError:
    """A model that has too much to do."""
    return RequestError(f"{waiting} answers of this model are waiting already: try again in a moment", "busy", 429)


def client_gone() -> RequestError:
    """The client has disconnected; nobody reads this."""
    return RequestError("the client has gone", "gone", 499)


def unknown_model(model: object, models: Iterable[str]) -> RequestError:
    """A model that is not served."""
    if not isinstance(model, str):
        return RequestError(f"model: {short(model)}; expected a name", "invalid_settings")
    return RequestError(f"model: there is no {short(model)}; there are {', '.join(models)}", "unknown_model", 404)


def short(value: object) -> str:
    """A client's value in a message: short, however long it is."""
    return _SHORT.repr(value)


_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60


def error_json(error: TinyWaveError) -> dict[str, Any]:
    """The `error` of an answer."""
    code = error.code if isinstance(error, RequestError) else "invalid_request"
    kind = "server_error" if status_of(error) >= 500 else "invalid_request_error"
    param = error.param if isinstance(error, RequestError) else None
    return {"type": kind, "code": code, "message": str(error)} | ({} if param is None else {"param": param})


def status_of(error: TinyWaveError) -> int:
    """HTTP's status for an error."""
    return error.status if isinstance(error, RequestError) else 400
