"""Python source as data: trees, asserts, cells, and the code in an answer."""
