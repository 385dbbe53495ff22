"""Training on several processes and devices: ranks and sharding engines."""
