"""Threads, tasks and locks of our own: none ends unheard."""
