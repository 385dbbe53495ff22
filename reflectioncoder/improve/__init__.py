"""Rounds of attempting, reflecting, training and scoring, until a held-out set stops improving."""
