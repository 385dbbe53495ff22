"""Problems: instructions with optional solutions and tests, from files or made here."""
