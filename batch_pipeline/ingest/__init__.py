"""Taking in what people hand over: the cohort file as Arrow batches, the workspace's lists, and what is kept of them.

A cohort goes through `encoding` (bytes → UTF-8), `layout` (delimiter, headings), `scan` (blocks whose records can be
read, by the rule in `grammar`) and `rows` (Arrow); `reader` puts them together.
"""
