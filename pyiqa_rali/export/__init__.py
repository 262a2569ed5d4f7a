"""A metric as a file for other runtimes."""
