"""The ledger, the SQLite record of a build: all finished problems and all paid answers."""
