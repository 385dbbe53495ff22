"""Settings: one frozen dataclass for each verb, read from TOML files and flags."""
