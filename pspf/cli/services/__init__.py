"""Work behind the commands: loaded when a command runs."""
