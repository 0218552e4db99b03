"""Why a request is not answered with what it asked for."""

from pspf.errors import BackendUnavailable, ConfigurationError, NotFound, PSPFError, Refused


class Trouble(Exception):
    """A status code and a text for people; becomes `{"error": text}`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def trouble_of(error: PSPFError | TimeoutError) -> Trouble:
    """Return what a failure of the broker is to a client."""
    match error:
        case TimeoutError():
            return Trouble(503, "the broker has not answered in time")
        case NotFound():
            return Trouble(404, str(error))
        case Refused():
            return Trouble(409, str(error))
        case BackendUnavailable():
            return Trouble(503, str(error))
        case ConfigurationError():
            return Trouble(400, str(error))
        case _:
            return Trouble(500, str(error))
