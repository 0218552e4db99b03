"""HTTP errors: the status and the text of a request that is refused."""

from pspf.errors import BackendUnavailable, ConfigurationError, NotFound, PSPFError, Refused


class HttpError(Exception):
    """A status code and a text for people; becomes `{"error": text}`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def trouble_of(error: PSPFError | TimeoutError) -> HttpError:
    """Return what a failure of the broker is to a client."""
    match error:
        case TimeoutError():
            return HttpError(503, "the broker has not answered in time")
        case NotFound():
            return HttpError(404, str(error))
        case Refused():
            return HttpError(409, str(error))
        case BackendUnavailable():
            return HttpError(503, str(error))
        case ConfigurationError():
            return HttpError(400, str(error))
        case _:
            return HttpError(500, str(error))
