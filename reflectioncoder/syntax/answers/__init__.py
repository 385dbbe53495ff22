"""The one reader of models' answers: thoughts, fences, and the program that an answer holds. Nothing is run."""
