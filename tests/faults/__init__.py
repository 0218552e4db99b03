"""Real processes, killed at named points: nothing is lost, nothing counts twice."""
