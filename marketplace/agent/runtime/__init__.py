"""Where jobs run: a port (`base`) and the runtimes behind it."""
