"""What every other package may use: files, the machine, signals, worker processes, random streams, messages, registries."""
