"""Pure logic of the loop: takes values, gives values, no I/O."""
