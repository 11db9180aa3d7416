"""What scores answers: reward functions, verifiers, models and people, as scorers, pair judges and list judges."""
