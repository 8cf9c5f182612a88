"""What a run will do before any weight is loaded: recipe, memory, plan."""
