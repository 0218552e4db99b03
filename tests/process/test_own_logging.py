"""Apps that configure their own logging."""

import pytest

from tests.process.commands import Folder

CONFIGURE = 'logging.config.dictConfig({"version": 1, "root": {"level": "WARNING"}})'
APP = """
import logging.config
from pspf import BaseEvent, RetryPolicy, Stream

stream = Stream(topic="orders", group="billing")
{at_import}


@stream.subscribe("orders", retry=RetryPolicy(max_attempts=1))
async def refuse(order: BaseEvent):
    {in_handler}
    raise ValueError("no")
"""


@pytest.mark.parametrize(("at_import", "in_handler"), [(CONFIGURE, "pass"), ("", CONFIGURE)])
def test_a_logging_configuration_that_disables_all_loggers_silences_no_dead_letter(
    folder: Folder, at_import: str, in_handler: str
) -> None:
    (folder.path / "app.py").write_text(APP.format(at_import=at_import, in_handler=in_handler))
    folder.emit(1)
    assert "dead after attempt 1/1: ValueError: no" in folder.run("worker", "--burst").err
