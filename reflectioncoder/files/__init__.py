"""Files: JSON lines, rows of any format, writing whole files, the cache folder."""
