"""The log on a server: topics, streams, appends, retention."""
