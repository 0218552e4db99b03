"""The contract of `pspf.connectors.contract`, executable: every broker passes every test here."""

import pytest

pytest.register_assert_rewrite("tests.conformance.model")
