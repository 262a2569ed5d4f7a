"""What every other room stands on: errors, files, options, processes, the hub, and the folders of runs."""
