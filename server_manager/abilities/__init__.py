"""What a model can do besides answering: think first when told to, and see. From its own files."""
