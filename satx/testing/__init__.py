"""Local servers and a sweep without training, for tests and rehearsals."""
