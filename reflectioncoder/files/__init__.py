"""Reading and writing files: JSON lines, data set rows, atomic writes, the funnel of a build, the cache folder."""
