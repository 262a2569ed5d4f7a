"""Reports on runs: one self-contained HTML page and one Markdown file, made from the files of runs."""
