"""Connections to a server: opening, pipelining, errors, scripts."""
