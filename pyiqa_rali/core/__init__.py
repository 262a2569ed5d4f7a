"""What every other room is built on: errors, files, options, processes, the hub, and the folders of runs."""
