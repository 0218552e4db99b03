"""Helpers that the tests share: brokers to test, workers to drive."""
