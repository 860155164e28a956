"""Work on weights that needs no framework: numpy over safetensors."""
