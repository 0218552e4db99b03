"""Control of a running worker: the roster, commands, listeners, the admin process."""
