"""Problems made by a procedure, at four levels of difficulty."""
