"""RTD's training: the recipe, the objective, the loop and its checkpoints."""
