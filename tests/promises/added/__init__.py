"""A task, a mode and a network as a newcomer adds them by README's "How to add", each in one file."""
