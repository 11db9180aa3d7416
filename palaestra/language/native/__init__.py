"""Machine code for language models on processors, and what calls it."""
