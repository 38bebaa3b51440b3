"""The commands, a module a topic: options here, the work in the part that each one names."""
