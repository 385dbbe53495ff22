"""The ledger, the SQLite record of a build: every finished problem and every paid answer."""
