"""The protocol as pure tables and verbs: standard library only, no I/O."""
