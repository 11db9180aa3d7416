"""Experience, policies, methods, tasks, names, seeds and errors: the nouns that everything else is built from."""
