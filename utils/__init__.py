"""One noun a file; imports no task."""
