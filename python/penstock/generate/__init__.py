"""Generation: ``sample`` turns a model and a prompt into text."""
