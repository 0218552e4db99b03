"""Real processes, killed at named points: nothing is lost, nothing counts twice."""

import pytest

pytest.register_assert_rewrite("tests.faults.runs")
