"""Pre-training of a micro model on procedural documents, for studies that run in minutes on two cores."""
