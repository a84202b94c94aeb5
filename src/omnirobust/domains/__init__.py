"""What a perturbation must beat: models, transformations and images; losses."""
