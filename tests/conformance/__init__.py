"""The contract of `pspf.connectors.base`, executable: every broker passes every test here."""

import pytest

pytest.register_assert_rewrite("tests.conformance.model")
