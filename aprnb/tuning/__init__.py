"""Fine-tuning: recipe and plan (no torch), then data, loop, gates, state, artefacts and the run that ties them."""
